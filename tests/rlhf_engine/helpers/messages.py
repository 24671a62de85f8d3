"""What a refused call says."""

import pytest

from rlhf_engine.errors import UserError


def refused(function, *args, **options) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
