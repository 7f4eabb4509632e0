"""What the site has beside the pages in docs/: files of the repository's root, pictures, and links into the repository.

The same Markdown is read on GitHub, so links are written from file to file. MkDocs knows files in docs/ alone: links to
others become the repository's addresses, and pictures are copied.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^()\s#]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring in what stands outside of docs/, and what is written from the code."""
    pictures = sorted((ROOT / "results").rglob("*.png"))
    outside = {file: ROOT / name for name, file in PAGES.items()}
    outside |= {path.relative_to(ROOT).as_posix(): path for path in pictures}
    for file, path in outside.items():
        files.append(File.generated(config, file, abs_src_path=str(path)))
    for file, text in reference.pages().items():
        files.append(File.generated(config, file, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have every link to a file of the repository lead to its page, its copy, or its place in the repository."""
    written = {file: name for name, file in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def relinked(found: re.Match[str]) -> str:
        return _target(found[1], written, page.file.src_uri, files, config.repo_url or "")

    kept, end = [], 0
    for fence in FENCED.finditer(markdown):
        kept += [LINK.sub(relinked, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*kept, LINK.sub(relinked, markdown[end:])])


def _target(link: str, written: str, page: str, files: Files, repository: str) -> str:
    """Where a link leads on the site.

    Args:
        link: as it is written, without #anchor.
        written, page: the file that has it, from the repository's root and from the site's.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(written), link))
    if ":" in link or path.startswith("..") or not (ROOT / path).exists():
        return link  # an address, or one that MkDocs complains of
    on_site = PAGES.get(path, path.removeprefix("docs/"))
    if files.get_file_from_path(on_site):
        return posixpath.relpath(on_site, posixpath.dirname(page) or ".")
    return f"{repository.rstrip('/')}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"
