"""How things are called in PostgreSQL: quoted, in one schema, and never longer than it allows.

PostgreSQL cuts identifiers at 63 bytes without a word, so two long names could become one. Here a
name that is too long keeps its beginning, for people, and ends with a hash of the whole.
"""

import hashlib

from perdure.store.api import IndexedField

_BYTES_MAX = 63
_HASH_DIGITS = 16


def fitted(name: str) -> str:
    """The name if PostgreSQL takes it whole, else its beginning with a hash of all of it."""
    encoded = name.encode()
    if len(encoded) <= _BYTES_MAX:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS]
    return encoded[: _BYTES_MAX - _HASH_DIGITS - 1].decode(errors="ignore") + "~" + digest


def quoted(name: str) -> str:
    """The name as an identifier in SQL."""
    return '"' + fitted(name).replace('"', '""') + '"'


def literal(text: str) -> str:
    """The text as a constant in SQL, whatever `standard_conforming_strings` says."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def view_name(actor_type: str) -> str:
    """The view that people read; no class can have a name that begins like it."""
    return f"perdure_view_{actor_type}"


def key_name(actor_type: str) -> str:
    """The primary key of an actor table. Not `cart_pkey`: a class may be called CartPkey."""
    return f"perdure_pk_{actor_type}"


def index_name(actor_type: str, field: IndexedField, part: str = "") -> str:
    """Says all about the index, so that another declaration is another index."""
    kind = f"{'uq' if field.unique else 'ix'}{part}_{field.kind}"
    return fitted(f"perdure_{kind}_{actor_type}.{field.name}")


def expiry_name(actor_type: str) -> str:
    """The index by age of a class whose actors expire."""
    return fitted(f"perdure_ix_expiry_{actor_type}.")
