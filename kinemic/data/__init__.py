"""Corpora: the packed format, its readers, the generated corpus, splits and checks."""
