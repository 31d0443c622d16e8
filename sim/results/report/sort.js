
"use strict";
// A head is a button that sorts; rows stay within their group. Numbers count by their value and unit, "-" comes last.
const UNITS = { KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };
const value = (text) => {
  const found = /^([-+]?[\d,]*\.?\d+) ?([KMGT]B)?/.exec(text);
  return found ? parseFloat(found[1].replace(/,/g, "")) * (UNITS[found[2]] || 1) : NaN;
};
const before = (a, b) => {
  const [x, y] = [value(a), value(b)];
  if (isNaN(x) && isNaN(y)) return (a === "-") - (b === "-") || (a < b ? -1 : a > b ? 1 : 0);
  return isNaN(x) ? 1 : isNaN(y) ? -1 : x - y;
};
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const groups = [[]];
      for (const row of [...body.rows]) {
        if (row.classList.contains("group")) groups.push([row], []);
        else groups[groups.length - 1].push(row);
      }
      const text = (row) => (row.cells[column] ? row.cells[column].textContent : "");
      const sorted = (rows) => rows.sort((a, b) => (down ? -1 : 1) * before(text(a), text(b)));
      for (const rows of groups) body.append(...(rows.length && rows[0].classList.contains("group") ? rows : sorted(rows)));
    });
  });
}
