"""The extensions that Azure supports, of which `azure.extensions` allows some."""

from collections.abc import Iterable

from ._errors import EmulatorError

ALLOWED_BY_DEFAULT = ("vector",)

# Source: MicrosoftDocs/azure-databases-docs, articles/postgresql/extensions/includes/
# extensions-tables-by-engine-15.md and -18.md (June 2026), without what is only a library.
_SUPPORTED = """
address_standardizer address_standardizer_data_us age amcheck anon azure_ai azure_storage bloom
btree_gin btree_gist citext credcheck cube dblink dict_int dict_xsyn earthdistance fuzzystrmatch
hll hstore hypopg intagg intarray ip4r isn lo login_hook ltree oracle_fdw orafce pageinspect
pg_buffercache pg_cron pg_diskann pg_duckdb pg_freespacemap pg_hint_plan pg_ivm pg_partman
pg_prewarm pg_repack pg_squeeze pg_stat_statements pg_trgm pg_visibility pgaudit pgcrypto
pglogical pgrouting pgrowlocks pgstattuple plv8 postgis postgis_raster postgis_sfcgal
postgis_tiger_geocoder postgis_topology postgres_fdw postgres_protobuf semver session_variable
sslinfo tablefunc tdigest tds_fdw temporal_tables timescaledb topn tsm_system_rows
tsm_system_time unaccent uuid-ossp vector
"""
SUPPORTED_EXTENSIONS = frozenset(_SUPPORTED.split())


def parse_allow_list(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of an allow list in lower case, each of them once.

    Raises:
        EmulatorError: If Azure does not support one of them; the message lists every such name.
    """
    allow_list = tuple(dict.fromkeys(name.strip().lower() for name in names))
    if unsupported := [name for name in allow_list if name not in SUPPORTED_EXTENSIONS]:
        listed = ", ".join(map(repr, unsupported))
        raise EmulatorError(
            f"Azure does not support the extension {listed}, so azure.extensions cannot allow it."
        )
    return allow_list
