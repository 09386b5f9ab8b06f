"""Print docs/settings.md: ``python -m florence.config > docs/settings.md``."""

from __future__ import annotations

from florence.config.document import settings_markdown

print(settings_markdown(), end="")
