"""Pictures of a run: curves and image grids."""
