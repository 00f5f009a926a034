"""A maze of rooms in which a goal is to be reached: small, deterministic, and with detours that no straight line knows.

Nine rooms of nine cells, joined by doors that form a tree, so that one way leads from each room to any other. The
observation is which cell one is in and which is the goal, each as zeros and a one; the reward is 1 at the goal, where
the episode ends.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

ROOMS, ROOM = 3, 3  # rooms in a row, cells in a row of a room
SIZE = ROOMS * (ROOM + 1) + 1
CELLS = SIZE * SIZE
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
TIME_LIMIT = 50


def walls(seed: int = 0) -> npt.NDArray[np.bool_]:
    """True where there is a wall, `[SIZE, SIZE]`."""
    rng, wall = np.random.default_rng(seed), np.ones((SIZE, SIZE), dtype=bool)
    corner = np.array([(r * (ROOM + 1) + 1, c * (ROOM + 1) + 1) for r in range(ROOMS) for c in range(ROOMS)])
    for row, column in corner:
        wall[row : row + ROOM, column : column + ROOM] = False
    joined = {0}
    while len(joined) < len(corner):  # from a room that is joined, through a door, into one that is not
        room = int(rng.choice(sorted(joined)))
        move = MOVES[rng.integers(4)]
        following = np.array(divmod(room, ROOMS)) + move
        if (following < 0).any() or (following >= ROOMS).any() or int(following @ (ROOMS, 1)) in joined:
            continue
        joined.add(int(following @ (ROOMS, 1)))
        beside = corner[room] + np.where(move < 0, -1, np.where(move > 0, ROOM, rng.integers(ROOM)))
        wall[tuple(beside)] = False
    return wall


WALL = walls()
FREE = np.flatnonzero(~WALL.ravel())


class Maze(gym.Env[npt.NDArray[np.float32], np.int64]):
    """Walk from a random cell to another; a step into a wall stays."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space = spaces.Box(0.0, 1.0, (2 * CELLS,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        start, self.goal = (int(cell) for cell in self.np_random.choice(FREE, 2, replace=False))
        self.place = np.array(divmod(start, SIZE))
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        following = self.place + MOVES[action]
        if not WALL[tuple(following)]:
            self.place = following
        reached = self._cell() == self.goal
        return self._observe(), float(reached), reached, False, {}

    def _cell(self) -> int:
        return int(self.place @ (SIZE, 1))

    def _observe(self) -> npt.NDArray[np.float32]:
        observation = np.zeros(2 * CELLS, dtype=np.float32)
        observation[[self._cell(), CELLS + self.goal]] = 1.0
        return observation


gym.register("offline_losses/Maze-v0", entry_point="maze:Maze", max_episode_steps=TIME_LIMIT)
