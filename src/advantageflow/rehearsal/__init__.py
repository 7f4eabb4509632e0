"""One iteration of a recipe at its true size, with random weights: `advantageflow train RECIPE --rehearse`.

Nothing is fetched. The model's and the rewards' networks are built from their architectures, and the ordinary trainer
runs; what it took is measured, and what the whole run would take is reckoned from it by counting calls.
"""
