// Tables whose header is clicked are sorted by that column, and the other way round when it is clicked again.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const text = row.cells[column].textContent;
        return isNaN(parseFloat(text)) ? -Infinity : parseFloat(text);
      };
      const rows = [...table.tBodies[0].rows].sort((a, b) => value(a) - value(b));
      table.tBodies[0].append(...(down ? rows.reverse() : rows));
    });
  });
}
