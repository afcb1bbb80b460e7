"use strict";
(() => {
  const SHOWN = 50; // rows of a long table at once
  const SCALE = 3; // pixels of a saved figure to one of the screen
  const PRINTED = 200; // rows of an open long table on paper

  /** A cell's place in the order: a number where it begins with one, NaN where there is none. */
  const number = (text) => {
    const plain = text.replace(/,/g, "").replace("−", "-").replace("∞", "Infinity").replace(/^</, "");
    return parseFloat(plain);
  };

  /** Return places 0, 1, ... in the order of texts; what has no number comes last. */
  const sorted = (texts, down) => {
    const values = Float64Array.from(texts, number);
    const places = Array.from(texts, (_, k) => k);
    const words = values.every(Number.isNaN);
    const sign = down ? -1 : 1;
    places.sort((a, b) => {
      if (words) return sign * texts[a].localeCompare(texts[b], undefined, { numeric: true });
      const x = values[a], y = values[b];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
      return sign * (x - y) || a - b;
    });
    return places;
  };

  /** Make headings of columns buttons that call sort(column, down). */
  const sortable = (table, sort) => {
    const heads = [...table.querySelectorAll("thead th[data-column]")];
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.ariaSort === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.ariaSort = down ? "descending" : "ascending";
        sort(Number(head.dataset.column), down);
      });
    }
  };

  for (const table of document.querySelectorAll("table.sorts")) {
    const body = table.tBodies[0];
    sortable(table, (column, down) => {
      const rows = [...body.rows];
      const texts = rows.map((row) => row.cells[column].dataset.rank ?? row.cells[column].textContent);
      body.append(...sorted(texts, down).map((place) => rows[place]));
    });
  }

  // -- long tables: their rows are data, and those on view are made when they are looked at -------

  /** Return the classes that align numbers at the decimal: digits that a text lacks. */
  const aligner = (texts) => {
    const digits = (text) => {
      const found = /^[−-]?[\d,]*(?:\.(\d+))?×?( ± .+)?$/.exec(text);
      return found && /\d/.test(text) ? (found[1] ?? "").length : -1;
    };
    let most = 0;
    for (const text of texts) most = Math.max(most, digits(text));
    return (text) => {
      const own = digits(text);
      if (own < 0 || own === most) return "";
      return `p${Math.min(most - own, 7)}${own === 0 ? " dot" : ""}`;
    };
  };

  const FLAGS = { "~": "inside", "*": "off", "x": "failed" };

  const fill = (details) => {
    const data = JSON.parse(details.querySelector("script").textContent);
    const columns = data.columns.map((column) => {
      const texts = column.texts.split("\n");
      return { texts, flags: column.flags, left: column.left, pad: column.left ? null : aligner(texts) };
    });
    const names = columns[0].texts.map((text) => text.toLowerCase());
    const table = details.querySelector("table");
    const body = table.tBodies[0];
    const [search] = details.querySelectorAll("input");
    const [back, on] = details.querySelectorAll(".tools button");
    const status = details.querySelector("[role=status]");
    let order = names.map((_, k) => k), found = order, first = 0;

    const show = (count = SHOWN) => {
      const rows = found.slice(first, first + count).map((place) => {
        const row = document.createElement("tr");
        columns.forEach((column, k) => {
          const cell = document.createElement(k === 0 ? "th" : "td");
          const text = column.texts[place];
          if (k === 0) cell.scope = "row";
          const flag = FLAGS[column.flags[place]];
          const classes = [flag, column.left ? "left" : column.pad(text)].filter(Boolean);
          if (classes.length) cell.className = classes.join(" ");
          cell.textContent = text;
          row.append(cell);
        });
        return row;
      });
      body.replaceChildren(...rows);
      const last = Math.min(first + count, found.length);
      status.textContent = found.length
        ? `rows ${first + 1} to ${last} of ${found.length}` : "no row has that in its name";
      back.disabled = first === 0;
      on.disabled = last >= found.length;
    };
    const look = () => {
      const wanted = search.value.trim().toLowerCase();
      found = wanted ? order.filter((place) => names[place].includes(wanted)) : order;
      first = 0;
      show();
    };
    sortable(table, (column, down) => {
      order = sorted(columns[column].texts, down);
      look();
    });
    search.addEventListener("input", look);
    back.addEventListener("click", () => { first = Math.max(first - SHOWN, 0); show(); });
    on.addEventListener("click", () => { first += SHOWN; show(); });
    addEventListener("beforeprint", () => { if (details.open) { first = 0; show(PRINTED); } });
    addEventListener("afterprint", () => show());
    show();
  };

  for (const details of document.querySelectorAll("details.long")) {
    const once = () => { if (details.open) { details.removeEventListener("toggle", once); fill(details); } };
    details.addEventListener("toggle", once);
    once();
  }

  // -- tables read both ways, and text to copy ------------------------------------------------------

  for (const turn of document.querySelectorAll(".turn")) {
    const buttons = [...turn.querySelectorAll("button[data-show]")];
    const tables = [...turn.querySelectorAll("[data-turn]")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const other of buttons) other.ariaPressed = String(other === button);
        for (const table of tables) {
          table.hidden = table.dataset.turn !== button.dataset.show;
        }
      });
    }
  }

  for (const button of document.querySelectorAll("button[data-copies]")) {
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copies);
      const status = button.parentElement.querySelector("[role=status]");
      try {
        await navigator.clipboard.writeText(text.textContent);
        status.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(text);
        status.textContent = "selected: copy it with the keyboard";
      }
    });
  }

  // -- a figure as PNG, for slides and documents that take no SVG ------------------------------------

  for (const button of document.querySelectorAll("button[data-saves]")) {
    button.addEventListener("click", () => {
      const image = button.closest("figure").querySelector("img");
      const canvas = document.createElement("canvas");
      canvas.width = SCALE * image.naturalWidth;
      canvas.height = SCALE * image.naturalHeight;
      const pen = canvas.getContext("2d");
      pen.fillStyle = "#fff";
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      const link = document.createElement("a");
      link.download = `${button.dataset.saves}.png`;
      link.href = canvas.toDataURL("image/png");
      link.click();
    });
  }

  // -- a link to what is folded away opens it ------------------------------------------------------

  const reveal = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = place; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
