"""Sphinx settings; `make docs` builds with warnings as errors."""

project = "cogcache"
author = copyright = "the cogcache authors"  # noqa: A001
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = "cogcache"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
