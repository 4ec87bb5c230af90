
"use strict";
// A click on the head of a column sorts its table up, a second one down; what is unknown stays last.
function sort(head) {
  const up = head.getAttribute("aria-sort") !== "ascending";
  const body = head.closest("table").tBodies[0];
  const value = (row) => row.cells[head.cellIndex].dataset.value;
  const compare = head.classList.contains("number")
    ? (a, b) => Number(a) - Number(b)
    : (a, b) => a.localeCompare(b, "en", { numeric: true });
  const rows = [...body.rows].sort((first, second) => {
    const a = value(first), b = value(second);
    if (a === "" || b === "") return (a === "") - (b === "");
    return up ? compare(a, b) : compare(b, a);
  });
  for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...rows);
}
for (const button of document.querySelectorAll("th > button")) {
  button.addEventListener("click", () => sort(button.parentElement));
}
