"""People's reviews: doubtful images out as a Label Studio project, corrections back as claims of `human`.

Layers, low to high: ranking | importing | doubts | export.
"""

from florence.review.export import ReviewExport, export_review
from florence.review.importing import ReviewImport, import_review

__all__ = ["ReviewExport", "ReviewImport", "export_review", "import_review"]
