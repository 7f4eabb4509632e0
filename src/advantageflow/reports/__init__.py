"""Comparisons as tables and figures; runs, or a comparison, in one page: what is read of folders that runs left."""
