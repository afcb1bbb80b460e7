"""What knows no model: status, timing, progress, keys, complaints, kept files, shared code.

JAX is imported where it is used, so that help and lists come at once.
"""

from __future__ import annotations

from vi_recipes.core.beside import Beside
from vi_recipes.core.blas import on_one_core
from vi_recipes.core.checked import (
    NO_FILE,
    Check,
    check_content,
    inside,
    is_flag,
    is_list,
    is_nothing,
    is_number,
    is_one_of,
    is_record,
    is_table,
    is_text,
    is_whole,
    unreadable,
    within,
)
from vi_recipes.core.code_cache import programs_read, use_cache
from vi_recipes.core.complaints import (
    LOOSEST_RISE,
    LOOSEST_STEP,
    MOST,
    WIDEST_SCATTER,
    as_names,
    closest,
    enumerated,
    require,
    require_by_site,
    require_count,
    require_number,
    unknown,
)
from vi_recipes.core.content import (
    FILES,
    find,
    import_file,
    instances,
    list_models,
    list_pages,
    list_studies,
    load_file,
    load_object,
    member,
    only,
    public_functions,
)
from vi_recipes.core.errors import attempt, called, is_own, place_of, told, warn
from vi_recipes.core.folders import check_folder, drop_others, held
from vi_recipes.core.hosts import (
    Hosts,
    agree,
    arrays_by_hosts,
    join_hosts,
    numbers_by_hosts,
    said_by_hosts,
    sum_over_hosts,
)
from vi_recipes.core.kept_file import KeptFile, KeptWords, write_whole
from vi_recipes.core.keys import (
    as_key,
    as_seed,
    check_key,
    fold_key,
    generator,
    one_seed,
    precision,
    seed_of,
    split_key,
)
from vi_recipes.core.made_once import ByIdentity, MadeOnce, shapes_of
from vi_recipes.core.memory import collect_rarely, give_back, hand_back_large, keep_freed
from vi_recipes.core.one_at_a_time import one_at_a_time
from vi_recipes.core.parts import bind_parts
from vi_recipes.core.programs import constants_in, operations, programs_in
from vi_recipes.core.progress import Progress, ProgressFactory, in_notebook, progress_bar, silent
from vi_recipes.core.shared_code import SharedCode
from vi_recipes.core.starts import SEVERAL, from_starts
from vi_recipes.core.status import CheckpointError, FitError, MethodFailure, ModelError, Status
from vi_recipes.core.text import numbered, reads_as_number, visible
from vi_recipes.core.timing import (
    CALLS_OF_A_SEARCH,
    COMPILED_QUICKLY,
    Timing,
    compiler_options,
)
from vi_recipes.core.typed import check_arguments, check_fields, members
from vi_recipes.core.versions import version_of
from vi_recipes.core.watch import together

__all__ = [
    "CALLS_OF_A_SEARCH",
    "COMPILED_QUICKLY",
    "FILES",
    "LOOSEST_RISE",
    "LOOSEST_STEP",
    "MOST",
    "NO_FILE",
    "SEVERAL",
    "WIDEST_SCATTER",
    "Beside",
    "ByIdentity",
    "Check",
    "CheckpointError",
    "FitError",
    "Hosts",
    "KeptFile",
    "KeptWords",
    "MadeOnce",
    "MethodFailure",
    "ModelError",
    "Progress",
    "ProgressFactory",
    "SharedCode",
    "Status",
    "Timing",
    "agree",
    "arrays_by_hosts",
    "as_key",
    "as_names",
    "as_seed",
    "attempt",
    "bind_parts",
    "called",
    "check_arguments",
    "check_content",
    "check_fields",
    "check_folder",
    "check_key",
    "closest",
    "collect_rarely",
    "compiler_options",
    "constants_in",
    "drop_others",
    "enumerated",
    "find",
    "fold_key",
    "from_starts",
    "generator",
    "give_back",
    "hand_back_large",
    "held",
    "import_file",
    "in_notebook",
    "inside",
    "instances",
    "is_flag",
    "is_list",
    "is_nothing",
    "is_number",
    "is_one_of",
    "is_own",
    "is_record",
    "is_table",
    "is_text",
    "is_whole",
    "join_hosts",
    "keep_freed",
    "list_models",
    "list_pages",
    "list_studies",
    "load_file",
    "load_object",
    "member",
    "members",
    "numbered",
    "numbers_by_hosts",
    "on_one_core",
    "one_at_a_time",
    "one_seed",
    "only",
    "operations",
    "place_of",
    "precision",
    "programs_in",
    "programs_read",
    "progress_bar",
    "public_functions",
    "reads_as_number",
    "require",
    "require_by_site",
    "require_count",
    "require_number",
    "said_by_hosts",
    "seed_of",
    "shapes_of",
    "silent",
    "split_key",
    "sum_over_hosts",
    "together",
    "told",
    "unknown",
    "unreadable",
    "use_cache",
    "version_of",
    "visible",
    "warn",
    "within",
    "write_whole",
]
