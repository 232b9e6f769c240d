"""The page of settings is that of the code."""

from docs.render_settings import TARGET, render


def test_settings_page_is_up_to_date() -> None:
    assert TARGET.read_text() == render(), "run `make docs`"
