// Show the rows that fit every choice; areas without a row disappear. Without JavaScript everything is shown.
const form = document.querySelector(".filters");
const rows = [...document.querySelectorAll("table.claims tbody tr")];
function apply() {
  const wanted = [...new FormData(form)].filter(([, value]) => value);
  const fits = (element) => wanted.every(([name, value]) => !(name in element.dataset) || element.dataset[name] === value);
  for (const element of document.querySelectorAll("[data-area]")) element.hidden = !fits(element);
  const shown = rows.filter((row) => !row.hidden).length;
  form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
}
form.addEventListener("change", apply);
form.addEventListener("submit", (event) => event.preventDefault());
apply();
