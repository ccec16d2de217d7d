"""What mkdocs calls while it builds the site; the work is in the other files of this folder."""

from pathlib import Path

from content import ROOT, copied, filled, made_pages, sources
from links import in_html, in_markdown, wrong_links
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.toc import get_toc
from mkdocs.utils import get_relative_url

from notebooks import contents, in_site_style


def on_config(config):
    config.nav = filled(config.nav)
    return config


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config) -> Files:
    for path in [*sources(), *sorted(copied())]:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    for path, text in made_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    here = page.file.src_uri
    return in_markdown(markdown, here) if here in sources() else markdown


def on_page_content(content: str, page, config, files: Files) -> str:
    here = page.file.src_uri
    if here.startswith("api/"):  # the search finds names and docstrings, not the lines of the source
        source = 'class="mkdocstrings-source"'
        return content.replace(f"<details {source}", f"<details data-search-exclude {source}")
    if not here.endswith(".ipynb"):
        return content

    def url(path: str) -> str | None:
        file = files.get_file_from_path(path)
        return get_relative_url(file.url, page.file.url) if file else None

    content, headings = contents(in_site_style(content))
    page.toc = get_toc(headings)
    return in_html(content, here, url)


@event_priority(-100)
def on_post_build(config) -> None:
    if wrong := wrong_links(Path(config.site_dir)):
        raise PluginError("Links of the site that lead nowhere:\n" + "\n".join(wrong))
