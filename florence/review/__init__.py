"""People's reviews: doubtful images out as a Label Studio project, corrections back as claims of `human`.

Of gold and held-out images people's labels are reviews, which make the reference there (`florence.people`).

Layers, low to high: ranking | blind_import | importing | doubts | export | blind_export.
"""

from florence.review.blind_export import BlindChoice, BlindExport, export_blind, export_disagreements
from florence.review.export import ReviewExport, export_review
from florence.review.importing import ReviewImport, import_review

__all__ = [
    "BlindChoice",
    "BlindExport",
    "ReviewExport",
    "ReviewImport",
    "export_blind",
    "export_disagreements",
    "export_review",
    "import_review",
]
