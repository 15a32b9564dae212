"""Studies: members of one shape that train side by side in one step, each a run of its own."""
