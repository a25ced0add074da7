"""The site is built without a warning, its links lead somewhere, and it loads from no server."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        # Links and anchors that lead nowhere, and pages outside the navigation, are warnings.
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_every_page_is_built(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in markdown_files()}
    for page in pages:
        folder = page.parent if page.name in ("index", "README") else page
        assert (site / folder / "index.html").is_file()
        text = (site / folder / "index.html").read_text(encoding="utf-8")
        assert "<!-- table:" not in text
        assert not re.search(r"--\s?8\s?&lt;\s?--", text), page
        assert not re.search(r":(attr|class|data|func|math|meth|mod):", text), page


def test_nothing_is_loaded_from_a_server(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link)\b[^>]*?(?:src|href)="(https?:[^"]+)"', text)
        assert loaded == [], path


def test_the_reference_has_the_public_names(site):
    import mxmclr_plugin

    pages = [path.read_text(encoding="utf-8") for path in (site / "api").rglob("index.html")]
    text = "\n".join(pages)
    for name in mxmclr_plugin.__all__:
        assert re.search(rf'id="mxmclr_plugin\.[\w.]*\.{name}"', text), name


def markdown_files():
    return sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_of_the_top_level_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\s-]", "", h).strip().lower().replace(" ", "-") for h in headings]
            assert anchor in slugs, link


def test_the_lock_file_has_every_requirement_and_each_package_has_a_licence():
    requirements = pytest.importorskip("packaging.requirements")
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        needed = requirements.Requirement(text)
        assert needed.specifier.contains(pins[needed.name.lower().replace("_", "-")]), text
    licences = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8").replace("_", "-")
    for name in pins:
        assert re.search(rf"^\| `{name}` \| \S.* \|$", licences, re.MULTILINE), name


def test_every_requirement_has_a_licence_and_every_extra_a_purpose():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    licences = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    for requirement in needed:
        name = re.match(r"[\w.-]+", requirement)[0]
        assert re.search(rf"^\| `{name}` \| \S.* \|$", licences, re.MULTILINE), name
    purposes = (ROOT / "docs" / "runner.md").read_text(encoding="utf-8").partition("## Extras")[2]
    assert set(re.findall(r"`(\w+)`", purposes)) >= set(extras)
