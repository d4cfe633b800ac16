"""The README says what is true."""

import re
from pathlib import Path

from cairn_core.kit.config import load, settings_table
from cairn_dns.proxy import config as settings
from cairn_dns.proxy.config import ProxyConfig

README = Path(settings.__file__).parent / "README.md"


def test_the_table_of_settings_is_that_of_the_struct() -> None:
    found = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", README.read_text(), re.DOTALL)
    assert found is not None
    assert found[1].strip() == settings_table(ProxyConfig).strip()


def test_every_example_is_a_configuration(tmp_path: Path) -> None:
    examples = re.findall(r"```json config\n(.*?)```", README.read_text(), re.DOTALL)
    assert examples
    for text in examples:
        path = tmp_path / "dns-proxy.json"
        path.write_text(text)
        load(ProxyConfig, program="cairn-dns-proxy", file=path, environ={})
