"""The paper's experiments at the size of the built-in worlds: `advantageflow reproduce`."""
