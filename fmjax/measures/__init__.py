"""Numbers of what a model answers: each a function of which examples there are, so that all have an interval."""
