"use strict";
// What a person may take away: a table as CSV, a chart as PNG or SVG. Made in the page and saved by a link: nothing is loaded.

const file_name = text => text.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "").slice(0, 120) || "page";

function save_file(name, blob) {
  const address = URL.createObjectURL(blob);
  el("a", {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// A cell of RFC 4180. Text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, "CSV Injection"), numbers
// don't need one.
function csv_cell(value) {
  if (!known(value)) return "";
  const text = Array.isArray(value) ? value.map(String).join(", ") : String(value);
  const harmless = typeof value === "number" || (/^[-+]?[\d.]/.test(text) && Number.isFinite(Number(text))) || !/^\s*[=+\-@\t\r\n＝＋－＠]/.test(text);
  const cell = harmless ? text : `'${text}`;
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

const csv_of = (columns, rows) => [columns.map(column => csv_cell(column.csv ?? column.key)), ...rows.map(row => columns.map(column => csv_cell(column.value(row))))]
  .map(cells => `${cells.join(",")}\r\n`).join("");

// --- charts ---

const title_of = chart => chart.getAttribute("aria-label").split(/[,;:]/)[0];

function name_of(chart) {  // the run or the part of the page, and the chart
  const part = chart.closest("#panel") ? place.run : chart.closest("[role=region]")?.getAttribute("aria-label") ?? chart.closest("section").querySelector("h2").textContent;
  return file_name(`${part} ${title_of(chart)}`);
}

async function save_picture(chart, format) {
  const [width, height] = [chart._fullLayout.width, chart._fullLayout.height].map(Math.round), ground = css("--ground");
  const figure = {data: chart.data, layout: {...chart.layout, paper_bgcolor: ground, plot_bgcolor: ground}};
  const address = await Plotly.toImage(figure, {format: "svg", width, height}), name = `${name_of(chart)}.${format}`;
  if (format === "svg") return save_file(name, new Blob([decodeURIComponent(address.slice(address.indexOf(",") + 1))], {type: "image/svg+xml"}));
  const image = new Image(), canvas = el("canvas", {width: 2 * width, height: 2 * height});  // Plotly's own way takes a blob: image, which the page's policy forbids
  image.src = address;
  await image.decode();
  const context = canvas.getContext("2d");
  context.fillStyle = ground;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob(blob => save_file(name, blob), "image/png");
}

// Below a chart, in a box with it: a screen reader takes the chart for one image, in which there can be no button.
function offer_pictures(chart) {
  if (!chart.saving) {
    const box = el("div", {class: "charted"});
    chart.saving = ["PNG", "SVG"].map(format => el("button", {type: "button", onclick: () => save_picture(chart, format.toLowerCase())}, format));
    chart.replaceWith(box);
    box.append(chart, el("p", {class: "note saving"}, "Save as ", chart.saving));
  }
  chart.saving.forEach(button => button.setAttribute("aria-label", `${button.textContent}: save ${title_of(chart)}`));
}
