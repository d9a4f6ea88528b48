"""The benchmark: what each promise of speed measures here, beside what the database itself can do in the same run."""
