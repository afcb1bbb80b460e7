"""Bytes and operations of linear response, a row and a member, as XLA counts its programs.

    python benchmarks/rows.py

Criteo's programs are compiled at three sizes; what more rows, and more members, add to their counts
is what one takes. Nothing is timed.
"""

from __future__ import annotations

from typing import Any

import common


def programs(num_rows: int, num_groups: int) -> dict[str, dict[str, float]]:
    """Return XLA's counts of a product with the joint Hessian, and of what linear response runs."""
    import jax

    import vi_recipes as vr
    from vi_recipes.core import Timing

    found: dict[str, Any] = {}
    compile_one = Timing.compile

    def noted(self: Any, function: Any, *args: Any, **options: Any) -> Any:
        found[function.__name__] = made = compile_one(self, function, *args, **options)
        return made

    model = vr.load_model("criteo")
    assert model.simulate is not None
    target = vr.Target(model, **model.simulate(num_rows=num_rows, num_groups=num_groups))
    Timing.compile = noted  # type: ignore[method-assign]
    vr.LinearResponse(base=vr.MeanField(num_starts=1)).fit(target, key=0, throw=True)
    Timing.compile = compile_one  # type: ignore[method-assign]

    def product(z: jax.Array, v: jax.Array, arrays: Any) -> Any:
        return jax.jvp(lambda z: jax.grad(target.log_density_fn)(z, arrays), (z,), (v,))[1]

    with jax.enable_x64(True):
        z = jax.numpy.zeros(target.dim)
        joint = jax.jit(product).lower(z, z, target.arrays()).compile()
    known = {
        "joint density: a product": joint,
        "ELBO: a point": found["_linearised"],
        "ELBO: a product": found["_along"],
    }
    counts = {}
    for name, made in known.items():
        memory, cost = made.memory_analysis(), made.cost_analysis()
        counts[name] = {
            "reads": memory.argument_size_in_bytes,
            "gives": memory.output_size_in_bytes,
            "work space": memory.temp_size_in_bytes,
            "moved": cost["bytes accessed"],
            "operations": cost["flops"],
        }
    return counts


def main() -> None:
    """Print what a row and a member take, by programs of two sizes each."""
    common.heading("criteo: bytes and operations of the compiled programs, as XLA counts them")
    small, rows, members = (
        programs(120_000, 12_000),
        programs(200_000, 12_000),
        programs(200_000, 16_000),
    )
    table = []
    for name, counts in small.items():
        a_row = {k: (rows[name][k] - n) / 80_000 for k, n in counts.items()}
        a_member = {k: (members[name][k] - n) / 4_000 for k, n in rows[name].items()}
        table += [
            (name, what, *(f"{n:,.0f}" for n in of.values()))
            for what, of in (("row", a_row), ("member", a_member))
        ]
    head = ("program", "a", "reads, B", "gives, B", "work space, B", "moves, B", "operations")
    common.print_table(head, table)
    print("\nOf a loop over directions or nodes one turn is counted.")


if __name__ == "__main__":
    main()
