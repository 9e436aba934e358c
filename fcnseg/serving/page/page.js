"use strict";
// Sends the image to the server, draws what comes back over it. Names are only ever set as text.
const element = (id) => document.getElementById(id);
const canvas = element("canvas"), context = canvas.getContext("2d");
let models = [], image = null, layer = null, range = 0, stream = null, token = "", turn = 0;

const say = (text) => { element("status").textContent = text; };
const option = (value, text) => { const made = new Option(text ?? value, value); return made; };
const current = () => models.find((model) => model.name === element("model").value);

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    token = prompt("Token") ?? "";
    if (token) return ask(path, options);
  }
  if (!response.ok) {
    const found = await response.json().catch(() => ({ error: `HTTP ${response.status}` }));
    throw new Error([found.error, found.hint].filter(Boolean).join(" "));
  }
  return response;
}

function fill() {
  const model = current();
  element("class").replaceChildren(...model.classes.map((one) => option(one.name)));
  element("stride").replaceChildren(...model.strides.map((one) => option(one)));
  const modes = [["labels", "prediction"], ["heatmap", "heatmap of a class"]];
  if (model.strides.length) modes.push(["skip", "what a skip adds to a class"]);
  element("shown").replaceChildren(...modes.map(([value, text]) => option(value, text)));
  element("legend").replaceChildren(...model.classes.map((one) => {
    const item = document.createElement("li"), swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = one.color;
    item.append(swatch, one.name);
    return item;
  }));
  toggle();
}

function toggle() {
  const shown = element("shown").value;
  element("class-label").hidden = shown === "labels";
  element("stride-label").hidden = shown !== "skip";
}

function draw() {
  if (!image) return;
  context.globalAlpha = 1;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (!layer) return;
  context.globalAlpha = Number(element("alpha").value);
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
}

// Grey levels as colors: a heatmap from dark blue to yellow, a skip from blue over grey to red.
function tint(bitmap, shown) {
  const made = new OffscreenCanvas(bitmap.width, bitmap.height);
  const pen = made.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  const pixels = pen.getImageData(0, 0, made.width, made.height), data = pixels.data;
  for (let at = 0; at < data.length; at += 4) {
    const value = data[at] / 255, signed = (data[at] - 128) / 127;
    const color = shown === "heatmap"
      ? [255 * Math.min(1, 1.5 * value), 255 * value ** 1.5, 128 * (1 - value)]
      : [128 + 127 * signed, 128 - 100 * Math.abs(signed), 128 - 127 * signed];
    [data[at], data[at + 1], data[at + 2]] = color;
  }
  pen.putImageData(pixels, 0, 0);
  return made;
}

async function segment(blob) {
  const mine = ++turn, shown = element("shown").value;
  const output = shown === "labels" ? "color" : shown;
  const query = new URLSearchParams();
  if (shown !== "labels") query.append("class", element("class").value);
  if (shown === "skip") query.append("stride", element("stride").value);
  const path = `models/${encodeURIComponent(element("model").value)}/${output}?${query}`;
  const began = performance.now();
  try {
    const response = await ask(path, { method: "POST", body: blob });
    range = Number(response.headers.get("X-Range") ?? 0);
    const bitmap = await createImageBitmap(await response.blob());
    if (mine !== turn) return;
    layer = shown === "labels" ? bitmap : tint(bitmap, shown);
    const took = performance.now() - began;
    const scale = range ? `, red = +${range.toPrecision(3)} logits, blue = -${range.toPrecision(3)}` : "";
    say(`${Math.round(took)} ms, ${(1000 / took).toFixed(1)} frames/s${scale}`);
  } catch (error) { layer = null; say(error.message); }
  draw();
}

let last = null;
async function show(blob) {
  last = blob;
  try { image = await createImageBitmap(blob, { imageOrientation: "from-image" }); } catch { image = null; }
  if (image) { canvas.width = image.width; canvas.height = image.height; }
  layer = null;
  draw();
  await segment(blob);
}

async function camera() {
  if (stream) {
    stream.getTracks().forEach((track) => track.stop());
    stream = null;
    element("camera").setAttribute("aria-pressed", "false");
    return;
  }
  try { stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640 } }); }
  catch (error) { say(`No camera: ${error.message}`); return; }
  element("camera").setAttribute("aria-pressed", "true");
  const video = document.createElement("video");
  video.srcObject = stream;
  await video.play();
  const frame = document.createElement("canvas");
  while (stream) {
    frame.width = video.videoWidth;
    frame.height = video.videoHeight;
    if (canvas.width !== frame.width || canvas.height !== frame.height) {
      canvas.width = frame.width;
      canvas.height = frame.height;
    }
    frame.getContext("2d").drawImage(video, 0, 0);
    image = frame;
    last = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.92));
    await segment(last);
  }
}

const again = () => { toggle(); if (last && !stream) segment(last); };
element("model").addEventListener("change", () => { fill(); again(); });
for (const id of ["shown", "class", "stride"]) element(id).addEventListener("change", again);
element("alpha").addEventListener("input", draw);
element("file").addEventListener("change", (event) => { if (event.target.files[0]) show(event.target.files[0]); });
element("camera").addEventListener("click", camera);
element("controls").addEventListener("submit", (event) => event.preventDefault());
const main = document.querySelector("main");
document.addEventListener("dragover", (event) => { event.preventDefault(); main.classList.add("over"); });
document.addEventListener("dragleave", () => main.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  main.classList.remove("over");
  if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
});

ask("models").then((response) => response.json()).then((found) => {
  models = found.models;
  element("model").replaceChildren(...models.map((model) => option(model.name)));
  fill();
}).catch((error) => say(error.message));
