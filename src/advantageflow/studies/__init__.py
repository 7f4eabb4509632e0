"""Several runs or models side by side: each run in a process of its own, what is kept of it, and what is compared."""
