"""KineMIC: few-shot human-action synthesis by mining a captioned motion corpus (arXiv 2512.11654)."""

__version__ = "0.1.0"
