"""What every room shares: input checks, and mask, weight and reduction."""
