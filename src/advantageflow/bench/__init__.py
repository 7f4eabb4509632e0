"""What an iteration of a recipe costs on this machine, against the bare calls of the transformer that it needs."""
