// Segments an image or the camera in the browser with the model beside this file.
// The contract between page and model is fcnseg's docs/export.md.

const at = (id) => document.getElementById(id);
const canvas = at("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });
let ort, session, classes, names, provider;
let shown = null; // {width, height, pixels (RGBA), labels, values or null} of the last image
let stream = null;

const say = (text) => { at("status").textContent = text; };

async function start() {
  const header = await (await fetch("model.json")).json();
  classes = header.classes;
  at("title").textContent = `fcnseg: ${header.extra.export.source}`;
  try {
    ort = await import("./ort/ort.webgpu.min.mjs");
  } catch {
    say("The files of onnxruntime-web are missing: README.txt beside this page says how to get them.");
    return;
  }
  ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  await open();
  names = session.outputNames;
  fillControls();
  say(`Ready (${provider}). Choose an image or start the camera.`);
  document.documentElement.dataset.state = "ready";
}

async function open() {
  const adapter = navigator.gpu && await navigator.gpu.requestAdapter().catch(() => null);
  for (provider of adapter ? ["webgpu", "wasm"] : ["wasm"]) {
    try {
      session = await ort.InferenceSession.create("model.onnx", { executionProviders: [provider] });
      return;
    } catch (error) {
      if (provider === "wasm") throw error;
    }
  }
}

function fillControls() {
  classes.names.forEach((name, index) => {
    at("view").add(new Option(`heatmap: ${name}`, String(index)));
    const item = document.createElement("li");
    const patch = document.createElement("span");
    patch.style.background = `rgb(${classes.colors[index].join(",")})`;
    item.append(patch, name);
    at("legend").append(item);
  });
  const skips = names.filter((name) => name.startsWith("skip_"));
  for (const name of skips) at("layer").add(new Option(`stride ${name.slice(5)} alone`, name));
  at("layer").parentElement.hidden = skips.length === 0;
}

function rgb(pixels) {
  const out = new Uint8Array(pixels.length / 4 * 3);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    out[to++] = pixels[from]; out[to++] = pixels[from + 1]; out[to++] = pixels[from + 2];
  }
  return out;
}

// What is shown of a map (K, H, W): one class's softmax or, of a skip, its contribution over the largest.
function valuesOf(map, count, index, isSkip) {
  const area = map.length / count, values = new Float32Array(area);
  if (isSkip) {
    let largest = 1e-6;
    for (const value of map) largest = Math.max(largest, Math.abs(value));
    for (let i = 0; i < area; i++) values[i] = map[index * area + i] / largest;
    return values;
  }
  for (let i = 0; i < area; i++) {
    let sum = 0;
    for (let k = 0; k < count; k++) sum += Math.exp(map[k * area + i] - map[index * area + i]);
    values[i] = 1 / sum;
  }
  return values;
}

async function segment(source, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.drawImage(source, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  await predict({ width, height, pixels });
}

async function predict(image) {
  const { width, height, pixels } = image;
  const layer = at("layer").value, view = layer && !at("view").value ? "0" : at("view").value;
  const map = view ? layer || "logits" : null;
  const images = new ort.Tensor("uint8", rgb(pixels), [1, height, width, 3]);
  const found = await session.run({ images }, map ? ["labels", map] : ["labels"]);
  const values = map && valuesOf(found[map].data, classes.names.length, Number(view), Boolean(layer));
  shown = { ...image, labels: Uint8Array.from(found.labels.data), values };
  for (const tensor of Object.values(found)) tensor.dispose?.();
  window.segmentation = shown;
  draw();
}

function draw() {
  if (!shown) return;
  const { width, height, pixels, labels, values } = shown;
  const opacity = at("opacity").value / 100;
  const data = new Uint8ClampedArray(pixels);
  for (let i = 0; i < labels.length; i++) {
    let color = classes.colors[labels[i]], part = opacity;
    if (values) {
      color = values[i] < 0 ? [40, 90, 255] : [255, 60, 20];
      part = opacity * Math.abs(values[i]);
    }
    for (let c = 0; c < 3; c++) data[4 * i + c] = pixels[4 * i + c] * (1 - part) + color[c] * part;
  }
  context.putImageData(new ImageData(data, width, height), 0, 0);
}

async function showFile(file) {
  stopCamera();
  const image = await createImageBitmap(file);
  const begun = performance.now();
  say("Segmenting ...");
  await segment(image, image.width, image.height);
  say(`${image.width} x ${image.height} pixels, ${(performance.now() - begun).toFixed(0)} ms (${provider})`);
  document.documentElement.dataset.state = "done";
}

async function runCamera() {
  stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = at("video");
  video.srcObject = stream;
  await video.play();
  at("camera").setAttribute("aria-pressed", "true");
  at("camera").textContent = "Stop camera";
  let frames = 0, begun = performance.now();
  while (stream) {
    await segment(video, video.videoWidth, video.videoHeight);
    frames += 1;
    const seconds = (performance.now() - begun) / 1000;
    if (seconds >= 1 || frames === 1) {
      say(`${(frames / seconds).toFixed(1)} frames/s (${provider})`);
      document.documentElement.dataset.state = "live";
    }
    if (seconds >= 1) { frames = 0; begun = performance.now(); }
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("camera").setAttribute("aria-pressed", "false");
  at("camera").textContent = "Start camera";
}

const failed = (error) => { stopCamera(); say(`Failed: ${error.message}`); };
const again = () => { if (shown && !stream) predict(shown).catch(failed); };
at("file").addEventListener("change", () => {
  if (at("file").files.length) showFile(at("file").files[0]).catch(failed);
});
at("camera").addEventListener("click", () => { stream ? stopCamera() : runCamera().catch(failed); });
at("view").addEventListener("change", again);
at("layer").addEventListener("change", again);
at("opacity").addEventListener("input", draw);
start().catch(failed);
