/* Elements, and tables whose rows are changed in place. Whatever comes from a client goes into the
   page as text (textContent), never as markup. */

const byId = (id) => document.getElementById(id);

const make = (tag, classes, text) => {
  const node = document.createElement(tag);
  if (classes) node.className = classes;
  if (text !== undefined) node.textContent = text;
  return node;
};

const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text; // a selection survives what stays
};

/* A table whose rows are changed in place. A column is [heading, classes, function of a row that
   returns a text, function that changes the cell further]. */
const table = (where, caption, columns, empty, visible) => {
  const scroll = make("div", "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "group"); // the section around it is the landmark
  scroll.setAttribute("aria-label", caption);
  const node = make("table");
  node.append(make("caption", visible ? "" : "hidden", caption));
  const group = make("colgroup");
  const heads = make("tr");
  for (const [heading, classes, , , column] of columns) {
    group.append(make("col", column || ""));
    const head = make("th", classes, heading);
    head.scope = "col";
    heads.append(head);
  }
  const head = make("thead");
  head.append(heads);
  const body = make("tbody");
  node.append(group, head, body);
  scroll.append(node);
  const nothing = make("p", "empty", empty);
  where.append(scroll, nothing);
  return (rows) => {
    head.hidden = !rows.length;
    nothing.hidden = rows.length > 0;
    while (body.rows.length > rows.length) body.lastChild.remove();
    rows.forEach((row, at) => {
      let line = body.rows[at];
      if (!line) {
        line = make("tr");
        columns.forEach(([, classes], i) => {
          const cell = make(i === 0 ? "th" : "td", classes);
          if (i === 0) cell.scope = "row";
          line.append(cell);
        });
        body.append(line);
      }
      columns.forEach(([, , text, change], i) => {
        const cell = line.cells[i];
        if (change) change(cell, row, text(row));
        else setText(cell, text(row));
      });
    });
  };
};

const titled = (cell, row, text) => {
  setText(cell, text);
  if (cell.title !== text) cell.title = text;
};

const share = (cell, row, text) => {
  let bar = cell.querySelector(".share");
  if (!bar) {
    bar = make("div", "share");
    bar.setAttribute("aria-hidden", "true");
    cell.append(bar, make("span"));
  }
  setText(cell.lastChild, text);
  cell.title = text;
  bar.style.width = "calc(" + (100 * row.share).toFixed(1) + "% - 16px)";
};
