"""Getting a search onto a Ray cluster: submit, follow, stop."""
