"""Checks the links of the built documentation: python .ci/check_site.py FOLDER CHECKOUT."""
# ruff: noqa: T201

import html
import pathlib
import re
import sys

site, checkout = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
SOURCE = "https://github.com/mtan-jax/mtan_jax/blob/main/"
texts = {page: page.read_text() for page in site.rglob("*.html") if "_static" not in page.parts}
broken = set()
for page, text in texts.items():
    for link in map(html.unescape, re.findall(r'href="([^"]+)"', text)):
        file, _, anchor = link.partition("#")
        if link.startswith(SOURCE):
            found = (checkout / file.removeprefix(SOURCE)).exists()
        elif re.match(r"\w+:", link):
            continue  # to another site
        else:
            target = (page.parent / file.partition("?")[0]).resolve() if file else page
            found = target.exists() and (not anchor or target not in texts or f'id="{anchor}"' in texts[target])
        # Pages of source code link to objects under the names of their modules, which the API pages do not use.
        if not found and "_modules" not in page.parts:
            broken.add(f"{page.relative_to(site)}: {link}")
if broken or not texts:
    sys.exit("\n".join(["broken links in the documentation:", *sorted(broken)]))
print(f"{len(texts)} pages, all links resolve")
