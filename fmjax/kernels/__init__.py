"""One fast kernel a file, its plain reference beside it."""
