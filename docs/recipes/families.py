"""The families of algorithms: the color of each where many are drawn together, and what it does about the maximum."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """Colors remain apart for the color-blind; `remedy` is what pages color by: see `REMEDIES` of `docs/pictures`."""

    color: str
    remedy: str


FAMILIES = {
    "BC": Family("#999999", "clone everything"),
    "filtered BC": Family("#000000", "imitate the best"),
    "AWR": Family("#E69F00", "imitate the best"),
    "DT": Family("#DDCC77", "imitate the best"),
    "HIQL": Family("#AA4499", "stay in the sample"),
    "IQL": Family("#0072B2", "stay in the sample"),
    "XQL": Family("#332288", "stay in the sample"),
    "SQL": Family("#882255", "stay in the sample"),
    "EQL": Family("#CC6677", "stay in the sample"),
    "HL-Gauss": Family("#56B4E9", "stay in the sample"),
    "CQL": Family("#009E73", "push back"),
    "QR-CQL": Family("#44AA99", "push back"),
    "TD3+BC": Family("#CC79A7", "stay near the data"),
    "ReBRAC": Family("#661100", "stay near the data"),
    "FQL": Family("#DDCC77", "stay near the data"),
    "RECAP": Family("#117733", "imitate the best"),
    "composed": Family("#E69F00", "stay in the sample"),
    "diffusion BC": Family("#AA4499", "clone everything"),
    "EDAC": Family("#999933", "doubt"),
    "SAC": Family("#D55E00", "nothing"),
    "DQN": Family("#D55E00", "nothing"),
}
