"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const make = (tag, text, more) => Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text }, more || {});

/* ---- the viewer: an image under two layers, a slider between them ---- */
const stage = at("stage");
const order = Object.keys(data.views).map(Number).sort((a, b) => data.order.indexOf(a) - data.order.indexOf(b));
let view = null, levels = null, terms = null, point = null, wanted = 0;

function inferno(level) {
  const stops = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
  const place = level / 255 * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, i) => value + (stops[low + 1][i] - value) * (place - low));
}

function pixels(source) {
  return new Promise((done) => {
    const image = new Image();
    image.onload = () => {
      const canvas = make("canvas", undefined, { width: image.width, height: image.height });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      done([canvas, context, context.getImageData(0, 0, image.width, image.height)]);
    };
    image.src = source;
  });
}

async function show(layer, image) {
  image.removeAttribute("src");
  if (!layer) return;
  if (!layer.heat) { image.src = layer.src; image.dataset.title = layer.title; return; }
  const [canvas, context, found] = await pixels(layer.src);
  for (let i = 0; i < found.data.length; i += 4) {
    const color = inferno(found.data[i]);
    for (let c = 0; c < 3; c++) found.data[i + c] = color[c];
  }
  context.putImageData(found, 0, 0);
  image.src = canvas.toDataURL();
  image.dataset.title = layer.title;
}

function wipe() {
  const place = Number(at("wipe").value);
  at("left").style.clipPath = `inset(0 ${100 - place}% 0 0)`;
  at("right").style.clipPath = `inset(0 0 0 ${place}%)`;
  at("line").style.left = `calc(${place}% - 1px)`;
  for (const id of ["left", "right"]) at(id).style.opacity = at("opacity").value / 100;
}

function layers() {
  for (const side of ["left", "right"]) {
    const index = at(`${side}-layer`).selectedIndex;
    show(index > 0 ? view.layers[index - 1] : null, at(side));
  }
}

/* An image with its layers: an element of the page, of which those after the script come in later. */
async function stored(index) {
  if (document.readyState === "loading" && Number(index) !== order[0])
    await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  return JSON.parse(at(`view-${index}`).textContent);
}

async function open(index, move) {
  const mine = ++wanted, found = await stored(index);
  if (mine !== wanted) return;
  view = found;
  const kept = ["left", "right"].map((side) => at(`${side}-layer`).value);
  for (const [place, side] of ["left", "right"].entries()) {
    const titles = ["image", ...view.layers.map((layer) => layer.title)];
    const list = at(`${side}-layer`);
    list.replaceChildren(...titles.map((title) => make("option", title, { value: title })));
    list.value = titles.includes(kept[place]) ? kept[place] : data.sides[place];
  }
  const scale = Math.max(1, Math.min(2, 640 / view.width));
  stage.style.width = `${view.width * scale}px`;
  stage.style.aspectRatio = `${view.width} / ${view.height}`;
  at("base").src = view.image;
  at("base").style.width = "100%";
  at("base").alt = view.name;
  at("pick").value = String(index);
  at("view-name").textContent = view.name + (view.scores.length ? ": " : "") + view.scores.map(
    (score, i) => `${data.score_names[i]} ${score === null ? "–" : (100 * score).toFixed(2)}`).join(", ");
  point = null; levels = null;
  at("probe").style.display = "none";
  at("readout").textContent = view.layers.some((layer) => layer.heat) ? `Click on the image: probabilities of its classes${view.terms ? ", and what each skip adds to their logits" : ""}.` : "";
  layers(); wipe();
  if (move) at("viewer").scrollIntoView({ behavior: "auto" });
  terms = view.terms ? new DataView(Uint8Array.from(atob(view.terms.values), (one) => one.charCodeAt(0)).buffer) : null;
}

/* The probabilities of the classes, decoded when a point is first asked for. */
async function decode() {
  const mine = wanted, found = {};
  for (const layer of view.layers) if (layer.heat) found[layer.heat] = (await pixels(layer.src))[2];
  if (mine === wanted) levels = found;
}

/* What each skip adds to the logit of each class at the nearest point that is kept. */
function sums(x, y) {
  const { strides, classes, width, height, step } = view.terms;
  const place = Math.floor(y * height / view.height) * width + Math.floor(x * width / view.width);
  const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2);
  const rows = classes.map((name, k) => [name, strides.map((_, s) => step * terms.getInt16(2 * ((s * classes.length + k) * width * height + place), true))]);
  const total = (row) => row[1].reduce((a, b) => a + b, 0);
  rows.sort((a, b) => total(b) - total(a));
  const text = rows.map((row) => `${row[0]}: ${row[1].map((value, s) => `${signed(value)} (stride ${strides[s]})`).join(" ")} = ${signed(total(row))}`);
  return ["", "Logits, as the sum of the skips:", ...text];
}

function read() {
  if (!point) return;
  const [x, y] = point;
  at("probe").style.display = "block";
  at("probe").style.left = `${100 * (x + .5) / view.width}%`;
  at("probe").style.top = `${100 * (y + .5) / view.height}%`;
  if (!levels) { decode().then(read); return; }
  const rows = Object.entries(levels).map(([name, found]) => [name, found.data[4 * (y * found.width + x)] / 255]);
  rows.sort((a, b) => b[1] - a[1]);
  const text = rows.slice(0, 6).map(([name, value]) => `${(100 * value).toFixed(1)} % ${name}`);
  if (terms) text.push(...sums(x, y));
  at("readout").textContent = rows.length ? text.join("\n") : "No probabilities are kept for this image.";
}

if (order.length) {
  at("pick").replaceChildren(...order.map((index) => make("option", data.views[index], { value: String(index) })));
  at("pick").addEventListener("change", () => open(at("pick").value));
  for (const id of ["wipe", "opacity"]) at(id).addEventListener("input", wipe);
  for (const id of ["left-layer", "right-layer"]) at(id).addEventListener("change", layers);
  stage.addEventListener("click", (event) => {
    const box = stage.getBoundingClientRect();
    point = [Math.floor((event.clientX - box.left) / box.width * view.width), Math.floor((event.clientY - box.top) / box.height * view.height)];
    read();
  });
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 10 : 1, [x, y] = point || [Math.floor(view.width / 2), Math.floor(view.height / 2)];
    point = [Math.max(0, Math.min(view.width - 1, x + far * step[0])), Math.max(0, Math.min(view.height - 1, y + far * step[1]))];
    read();
  });
  for (const button of document.querySelectorAll("button.open")) button.addEventListener("click", () => open(button.dataset.index, true));
  open(order[0]);
} else if (at("viewer")) at("viewer").hidden = true;

/* ---- the confusion matrix: a cell lists the images behind it ---- */
function matrix() {
  const mode = document.querySelector("input[name=mode]:checked").value, { names, counts } = data.confusion;
  const rows = counts.map((row) => row.reduce((a, b) => a + b, 0));
  const columns = counts[0].map((_, j) => counts.reduce((sum, row) => sum + row[j], 0));
  const head = make("tr");
  head.append(make("th", "labels \\ prediction", { scope: "col" }), ...names.map((name) => make("th", name, { scope: "col" })));
  const body = counts.map((row, i) => {
    const line = make("tr");
    line.append(make("th", names[i], { scope: "row" }), ...row.map((count, j) => {
      const whole = mode === "column" ? columns[j] : rows[i], part = whole ? count / whole : 0;
      const text = mode === "count" ? count.toLocaleString("en") : whole ? (100 * part).toFixed(1) : "–";
      const cell = make("td"), button = make("button", text, { type: "button" });
      button.dataset.cell = `${i},${j}`;
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-label", `labeled ${names[i]}, predicted ${names[j]}: ${text}`);
      cell.style.background = `rgba(var(--cell), ${(.55 * Math.sqrt(part)).toFixed(3)})`;
      button.addEventListener("click", () => behind(i, j, button));
      cell.append(button);
      return cell;
    }));
    return line;
  });
  const top = make("thead"), rest = make("tbody");
  top.append(head); rest.append(...body);
  at("confusion").replaceChildren(top, rest);
}

function behind(i, j, button) {
  for (const other of document.querySelectorAll("#confusion button")) other.setAttribute("aria-pressed", String(other === button));
  const { names } = data.confusion, images = data.confusion.images[`${i},${j}`] || [];
  const list = make("ul", undefined, { className: "cards" });
  for (const [index, count] of images) {
    const item = make("li"), text = `${data.names[index]}: ${count.toLocaleString("en")} px`;
    if (index in data.views) {
      const card = make("button", undefined, { type: "button" }), image = make("img", undefined, { alt: "" });
      stored(index).then((found) => { image.src = found.image; });
      card.append(image, make("span", text));
      card.addEventListener("click", () => open(index, true));
      item.append(card);
    } else item.append(make("span", text));
    list.append(item);
  }
  const heading = images.length ? `Images with the most pixels labeled ${names[i]}, predicted ${names[j]}:` : `No image has pixels labelled ${names[i]}, predicted ${names[j]}.`;
  at("behind").replaceChildren(make("p", heading), list);
}

if (data.confusion) {
  for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", matrix);
  matrix();
}
