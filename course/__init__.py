"""For maintainers and instructors, from a clone: run, solve, check, publish the notebooks."""
