// The page of a search: the map, the card of a source, the table, the export.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const columns = data.columns, plane = new Plane(data.plane);
const nSources = columns.Source_Name.length;
const pole = data.icrs.map((row) => row[2]); // ICRS north as a Galactic vector
const has = (name) => name in columns && columns[name].some((value) => value !== null && value !== "");
const at = (name, row) => (name in columns ? columns[name][row] : null);

/** ICRS longitude and latitude of a Galactic vector. */
const toIcrs = (v) => toLonLat([0, 1, 2].map((k) => dot(v, data.icrs.map((row) => row[k]))));
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const short = (name) => name.replace(/^UNL /, "");
const number = (value, digits = 3) => {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(digits)));
};
const withError = (name, row) => {
  const error = at(`Unc_${name}`, row);
  return number(at(name, row)) + (error === null ? "" : ` ± ${number(error, 2)}`);
};
const flagWords = (row) =>
  data.flags.filter(([bit]) => (at("Flags", row) ?? 0) & bit).map(([, words]) => words);

const sources = Array.from({ length: nSources }, (_, row) => {
  const vector = toVector(columns.GLON[row], columns.GLAT[row]);
  const [kind, color] = data.classes[data.shown_class[row]];
  const words = [at("Source_Name", row), kind, at("ASSOC", row) ?? "", ...flagWords(row)];
  return { row, vector, kind, color, pixel: plane.pixel(vector), axes: tangentAxes(vector, pole),
    doubted: data.doubted[row], text: words.join(" ").toLowerCase() };
});

/** Directions of the ellipse of a confidence in percent; none where it is unknown. */
function ellipse({ row, vector, axes }, percent) {
  const [major, minor, angle] = ["SemiMajor", "SemiMinor", "PosAng"].map((name) =>
    at(`Conf_${percent}_${name}`, row));
  if (major === null || angle === null) return [];
  const [sin, cos] = [Math.sin(angle * DEGREE), Math.cos(angle * DEGREE)];
  return Array.from({ length: 37 }, (_, k) => {
    const [a, b] = [major * Math.cos(k * 10 * DEGREE), minor * Math.sin(k * 10 * DEGREE)];
    return moved(vector, axes, a * sin + b * cos, a * cos - b * sin);
  });
}

const state = {
  layer: "counts", listed: sources.map((source) => source.row), chosen: new Set(), current: null,
  sort: { name: null, sign: 1 }, view: null, drag: null,
};

// The map

const LAYERS = {
  counts: { label: "Counts", unit: "counts deg⁻²", color: "inferno" },
  probability: { label: "Probability", unit: "probability of a source", color: "inferno" },
  model: { label: "Model", unit: "counts deg⁻²", color: "inferno" },
  residual: { label: "Residuals", unit: "standard deviations", color: "RdBu_r" },
};
const colors = Object.fromEntries(
  Object.entries(data.colors).map(([name, text]) => [name, colorTable(text)]));
const canvas = byId("sky"), context = canvas.getContext("2d");
const images = {}, shown = document.createElement("canvas");
const RESIDUAL_RANGE = 5;

/** Values that a layer shows: counts are smoothed, per square degree. */
function layerValues(layer, sigma) {
  if (layer !== "counts") return images[layer];
  return smooth(images.counts, plane.nx, plane.ny, sigma).map((value) => value / plane.step ** 2);
}

/** Place of a value in the table of colors, 0 to 255; stretch is 0 (linear) to 1. */
function stretched(layer, top, stretch) {
  if (layer === "residual") return (value) => 127.5 * (1 + value / RESIDUAL_RANGE);
  const softness = 10 ** (-3.5 * stretch), norm = 255 / Math.asinh(1 / softness);
  return (value) => norm * Math.asinh(value / (softness * top));
}

/** Paint values into a canvas; hatched where nothing was observed, clear off the sky. */
function paint(target, values, nx, ny, colorOf, table, onSky) {
  target.width = nx;
  target.height = ny;
  const image = new ImageData(nx, ny), pixels = new Uint32Array(image.data.buffer);
  for (let y = 0; y < ny; y++) {
    for (let x = 0; x < nx; x++) {
      const value = values[y * nx + x], to = (ny - 1 - y) * nx + x;
      if (value === value) pixels[to] = table[Math.max(0, Math.min(255, Math.round(colorOf(value))))];
      else if (onSky(x, y)) pixels[to] = (x + y) % 8 < 2 ? 0xff909090 : 0xff606060;
    }
  }
  target.getContext("2d").putImageData(image, 0, 0);
}

/** Compute and paint the layer anew; then draw. */
function render() {
  const { layer } = state, { color, unit: unitText } = LAYERS[layer];
  byId("smoothing").disabled = layer !== "counts";
  byId("stretch").disabled = layer === "residual";
  const sigma = Number(byId("smoothing").value), key = `${layer} ${sigma}`;
  if (render.key !== key) {
    render.values = layerValues(layer, sigma);
    render.top = layer === "probability" ? 1 : quantile(render.values, 0.9995) || 1;
    render.key = key;
  }
  const colorOf = stretched(layer, render.top, Number(byId("stretch").value));
  const onSky = (x, y) => plane.vector(x, y) !== null;
  paint(shown, render.values, plane.nx, plane.ny, colorOf, colors[color], onSky);
  const bar = document.createElement("canvas");
  const [low, high] = layer === "residual" ? [-RESIDUAL_RANGE, RESIDUAL_RANGE] : [0, render.top];
  const steps = Float32Array.from({ length: 256 }, (_, k) => low + ((high - low) * k) / 255);
  paint(bar, steps, 256, 1, colorOf, colors[color], () => false);
  bar.setAttribute("aria-hidden", "true");
  byId("scale").replaceChildren(`${number(low, 2)} `, bar, ` ${number(high, 2)} ${unitText}`);
  draw();
}

/** Point on the canvas, in CSS pixels, of a pixel of the image. */
function toScreen([px, py]) {
  const { x, y, scale } = state.view;
  return [(px - x) * scale + canvas.clientWidth / 2, (y - py) * scale + canvas.clientHeight / 2];
}

function toPixel([sx, sy]) {
  const { x, y, scale } = state.view;
  return [x + (sx - canvas.clientWidth / 2) / scale, y - (sy - canvas.clientHeight / 2) / scale];
}

/** Show all that was observed, with a margin. */
function fit() {
  const [left, right, low, high] = data.plane.box, { clientWidth: width, clientHeight: height } = canvas;
  const scale = 0.96 * Math.min(width / (right - left + 1), height / (high - low + 1));
  state.view = { x: (left + right) / 2, y: (low + high) / 2, scale, least: scale };
}

/** Zoom by a factor, keeping a point of the canvas where it is. */
function zoom(factor, point = [canvas.clientWidth / 2, canvas.clientHeight / 2]) {
  const before = toPixel(point), { view } = state;
  view.scale = Math.max(view.least / 2, Math.min(view.scale * factor, 200));
  const after = toPixel(point);
  pan(before[0] - after[0], before[1] - after[1]);
}

/** Move the view by pixels of the image, whose middle stays inside it. */
function pan(dx, dy) {
  const { view } = state;
  view.x = Math.max(0, Math.min(plane.nx, view.x + dx));
  view.y = Math.max(0, Math.min(plane.ny, view.y + dy));
  draw();
}

/** Draw a line twice, white and wide, then in its color and dashes. */
function outlined(color, width, trace, dashes = []) {
  for (const [style, wide, dash] of [["#fff", width + 1.6, []], [color, width, dashes]]) {
    context.strokeStyle = style;
    context.lineWidth = wide;
    context.setLineDash(dash);
    context.beginPath();
    trace();
    context.stroke();
  }
  context.setLineDash([]);
}

/** Trace directions as a line, which is broken where they leave the image. */
function traceLine(vectors) {
  let last = null;
  for (const vector of vectors) {
    const pixel = vector && plane.pixel(vector);
    if (!pixel || !last || plane.torn(pixel, last)) pixel && context.moveTo(...toScreen(pixel));
    else context.lineTo(...toScreen(pixel));
    last = pixel;
  }
}

function drawText(text, x, y) {
  context.lineWidth = 3;
  context.strokeStyle = "rgba(0, 0, 0, 0.85)";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}

/** Lines of Galactic longitude and latitude, with their degrees at the edge. */
function drawGrid() {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const radius = (Math.hypot(width, height) / 2 / state.view.scale) * plane.step;
  const spacing = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30].find((s) => radius / s < 5) ?? 30;
  const middle = plane.vector(state.view.x, state.view.y) ?? plane.center;
  const [lon, lat] = toLonLat(middle);
  const lons = Math.abs(lat) + radius > 80 ? 180 : Math.min(180, radius / Math.cos(lat * DEGREE) * 1.2);
  const lats = [Math.max(-90, lat - radius), Math.min(90, lat + radius)];
  const ends = lons < 180 ? [lon - lons, lon + lons] : [0, 360 - spacing];
  const range = (low, high) => {
    const first = Math.ceil(low / spacing - 1e-9), n = Math.floor(high / spacing + 1e-9) - first + 1;
    return Array.from({ length: Math.max(0, n) }, (_, k) => (first + k) * spacing);
  };
  const along = (low, high) => Array.from({ length: 91 }, (_, k) => low + ((high - low) * k) / 90);
  const lines = [
    ...range(...ends).map((l) => [along(...lats).map((b) => toVector(l, b)), (l + 360) % 360, 1]),
    ...range(...lats).filter((b) => Math.abs(b) < 90).map((b) => {
      const [low, high] = lons < 180 ? ends : [-179.99, 179.99];
      return [along(low, high).map((l) => toVector(l, b)), b, 0];
    }),
  ];
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "alphabetic";
  for (const [vectors, degrees, axis] of lines) {
    context.strokeStyle = "rgba(255, 255, 255, 0.22)";
    context.lineWidth = 1;
    context.beginPath();
    traceLine(vectors);
    context.stroke();
    const inside = vectors.map((v) => plane.pixel(v)).filter(Boolean).map(toScreen)
      .filter(([x, y]) => x > 2 && x < width - 45 && y > 14 && y < height - (axis ? 4 : 20));
    if (!inside.length) continue;
    const label = inside.reduce((a, b) => (axis ? b[1] > a[1] : b[0] < a[0]) ? b : a);
    drawText(`${number(degrees, 4)}°`, label[0] + 3, label[1] - 3);
  }
}

/** Draw everything: the layer, the grid, the sources and their names. */
function draw() {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight], ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  const { scale } = state.view, [left, top] = toScreen([-0.5, plane.ny - 0.5]);
  context.imageSmoothingEnabled = scale < 2;
  context.drawImage(shown, left, top, plane.nx * scale, plane.ny * scale);
  drawGrid();
  const marked = byId("marks").ariaPressed === "true" ? state.listed : [];
  const near = marked.map((row) => sources[row]).filter((source) => source.pixel)
    .map((source) => ({ source, point: toScreen(source.pixel) }))
    .filter(({ point: [x, y] }) => x > -20 && y > -20 && x < width + 20 && y < height + 20);
  for (const { source, point: [x, y] } of near) {
    const { row, color, doubted } = source, isCurrent = row === state.current;
    const major = ((at("Conf_95_SemiMajor", row) ?? 0) / plane.step) * scale;
    const size = near.length > 1000 ? 3 : near.length > 100 ? 4 : 7;
    outlined(color, isCurrent ? 3 : 2, () => {
      if (major > size) traceLine(ellipse(source, 95));
      else context.arc(x, y, size, 0, 7);
    }, doubted ? [3, 3] : []);
    if (isCurrent) outlined("#fff", 1.5, () => context.arc(x, y, Math.max(major, size) + 5, 0, 7));
    if (state.chosen.has(row)) {
      context.fillStyle = "#fff";
      context.fillRect(x - 2.5, y - 2.5, 5, 5);
    }
  }
  drawNames(near);
  const box = state.drag?.box;
  if (box) outlined("#fff", 1, () => context.rect(...box[0], box[1][0] - box[0][0], box[1][1] - box[0][1]));
}

/** Write names beside the sources where they cover no other name, that of the current one first. */
function drawNames(near) {
  if (near.length > 150) near = near.filter(({ source }) => source.row === state.current);
  near.sort((a, b) => (b.source.row === state.current) - (a.source.row === state.current));
  const taken = [];
  context.font = "11px system-ui, sans-serif";
  for (const { source, point: [x, y] } of near) {
    const text = short(at("Source_Name", source.row)), wide = context.measureText(text).width;
    const [left, right] = [x - wide - 14, x + 14];
    const place = [[right, y - 6], [right, y + 14], [left, y - 6], [left, y + 14]]
      .find(([a, b]) => taken.every(([c, d, w]) => a + wide < c || c + w < a || Math.abs(b - d) > 12));
    if (place) {
      taken.push([...place, wide]);
      drawText(text, ...place);
    }
  }
}

/** Row of the listed source nearest to a point of the canvas within a distance; null if none is. */
function sourceAt([x, y], distance) {
  let [best, found] = [distance, null];
  for (const row of state.listed) {
    if (!sources[row].pixel) continue;
    const [a, b] = toScreen(sources[row].pixel);
    if (Math.hypot(a - x, b - y) < best) [best, found] = [Math.hypot(a - x, b - y), row];
  }
  return found;
}

/** Coordinates, counts and the value of the layer at a point of the canvas. */
function readOut(point) {
  const pixel = toPixel(point), vector = plane.vector(...pixel), [px, py] = pixel.map(Math.round);
  if (!vector) return "\u00a0";
  const [[l, b], [ra, dec]] = [toLonLat(vector), toIcrs(vector)].map((c) => c.map((x) => x.toFixed(3)));
  const inside = px >= 0 && py >= 0 && px < plane.nx && py < plane.ny;
  const index = py * plane.nx + px, counts = inside ? images.counts[index] : NaN;
  const words = [`RA ${ra}° Dec ${dec}°`, `l ${l}° b ${b}°`];
  words.push(counts === counts ? `${counts} counts in the pixel` : "not observed");
  if (counts === counts) words.push(`${number(render.values[index])} ${LAYERS[state.layer].unit}`);
  const row = sourceAt(point, 14);
  return words.concat(row === null ? [] : [at("Source_Name", row)]).join(" · ");
}

function pointOf(event) {
  const frame = canvas.getBoundingClientRect();
  return [event.clientX - frame.left, event.clientY - frame.top];
}

const pointers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  const point = pointOf(event), isBox = event.shiftKey || byId("box").ariaPressed === "true";
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, point);
  state.drag = { start: point, far: pointers.size > 1, box: isBox ? [point, point] : null };
});
canvas.addEventListener("pointermove", (event) => {
  const point = pointOf(event), last = pointers.get(event.pointerId);
  if (last && state.drag) drag(event, point, last);
  byId("place").textContent = readOut(point);
});

/** Move or zoom the map, or change the box, by the move of a pointer. */
function drag(event, point, last) {
  const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId);
  const { drag: { start, box }, view } = state;
  state.drag.far ||= Math.hypot(point[0] - start[0], point[1] - start[1]) > 4;
  if (others.length) { // two fingers: zoom
    const [other] = others[0].slice(1), apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
    zoom(apart(point) / Math.max(apart(last), 1), other);
  } else if (box) {
    box[1] = point;
    draw();
  } else if (state.drag.far) {
    pan((last[0] - point[0]) / view.scale, (point[1] - last[1]) / view.scale);
  }
  pointers.set(event.pointerId, point);
}

for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    const { drag } = state;
    pointers.delete(event.pointerId);
    if (pointers.size || !drag) return;
    state.drag = null;
    if (drag.box) chooseInside(drag.box);
    else if (!drag.far && name === "pointerup") {
      open(sourceAt(pointOf(event), event.pointerType === "touch" ? 24 : 14));
    }
    draw();
  });
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), pointOf(event));
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const step = 60 / state.view.scale;
  const action = {
    ArrowLeft: () => pan(-step, 0), ArrowRight: () => pan(step, 0),
    ArrowUp: () => pan(0, step), ArrowDown: () => pan(0, -step),
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => (fit(), draw()),
  }[event.key];
  if (!action || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  action();
  byId("place").textContent = readOut([canvas.clientWidth / 2, canvas.clientHeight / 2]);
});

/** Add the listed sources inside a box of the canvas to the selection. */
function chooseInside([[x1, y1], [x2, y2]]) {
  for (const row of state.listed) {
    if (!sources[row].pixel) continue;
    const [x, y] = toScreen(sources[row].pixel);
    if ((x - x1) * (x - x2) < 0 && (y - y1) * (y - y2) < 0) state.chosen.add(row);
  }
  showChosen();
}

// The card of a source

const cutouts = {};

/** Show the card of a source, marked in map and table, which may move there; none for null. */
function open(row, center = false) {
  if (row === null) return;
  const source = sources[row];
  state.current = row;
  const kinds = ["AGN", "PSR", "OTHER"], [ra, dec] = [at("RAJ2000", row), at("DEJ2000", row)];
  const bars = kinds.filter((kind) => at(`Prob_${kind}`, row) !== null).map((kind) => {
    const value = at(`Prob_${kind}`, row), [word, color] = data.classes[kind.toLowerCase()];
    return `<div class="class"><span>${word}</span><i><b style="width: ${100 * value}%; background: ${color}"></b></i>
      <span>${(100 * value).toFixed(0)} %</span></div>`;
  });
  const radii = [68, 95].map((p) => [`${p} % ellipse`, ellipse(source, p).length &&
    `${number(at(`Conf_${p}_SemiMajor`, row))}° × ${number(at(`Conf_${p}_SemiMinor`, row))}°, ${number(at(`Conf_${p}_PosAng`, row))}° east of north`]);
  const rows = [
    ["RA, Dec", `${ra}°, ${dec}°`], ["l, b", `${at("GLON", row)}°, ${at("GLAT", row)}°`], ...radii,
    ...["Score", "Sqrt_TS", "Npred", "Flux", "Spectral_Index", "Sep_Nearest", "Coverage", "Npred_UL95",
      "Flux_UL95", "Variability", "Prob_Constant"].filter((name) => (at(name, row) ?? null) !== null)
      .map((name) => [name, `${cellText(name, row)} ${data.about[name][1]}`]),
    ["Catalogue", at("ASSOC", row) && `${at("ASSOC", row)} (${at("ASSOC_Catalog", row) ?? ""}), ${number(at("ASSOC_Sep", row))}° away, probability ${number(at("ASSOC_Prob", row))}`],
    ["Flags", flagWords(row).join("; ") || "none"],
  ].filter(([, text]) => text);
  const captions = { counts: "Counts", model: "Model", residual: "Residuals, ±5 σ" };
  byId("card").innerHTML = `<header><h3>${escaped(at("Source_Name", row))}</h3>
    <button type="button" aria-label="Previous source">‹</button><button type="button" aria-label="Next source">›</button></header>
    <div class="cutouts">${Object.keys(cutouts).map((name) => `<figure><canvas data-layer="${name}" role="img" aria-label="${captions[name]} around the source"></canvas><figcaption>${captions[name]}</figcaption></figure>`).join("")}</div>
    <p><small>${number(2 * data.cutout.half_deg)}° wide, north (ICRS) up, east left; ellipses of 68 % and 95 %</small></p>
    ${spectrum(row)}
    <dl>${rows.map(([key, text]) => `<div><dt title="${escaped(data.about[key]?.[0] ?? "")}">${key.replace(/_/g, " ")}</dt><dd>${escaped(text)}</dd></div>`).join("")}</dl>
    ${bars.length ? `<p>Class, if the source is real: <b>${source.kind}</b></p>${bars.join("")}` : ""}`;
  const [before, after] = byId("card").querySelectorAll("button");
  const here = state.listed.indexOf(row), n = state.listed.length;
  before.onclick = () => open(state.listed[(here - 1 + n) % n], true);
  after.onclick = () => open(state.listed[(here + 1) % n], true);
  for (const target of byId("card").querySelectorAll("canvas")) drawCutout(target, source);
  for (const line of byId("table").tBodies[0].rows) {
    if (Number(line.dataset.row) === row) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
  if (center && source.pixel) {
    [state.view.x, state.view.y] = source.pixel;
    state.view.scale = Math.max(state.view.scale, 120 * plane.step); // 8 deg fill the map
  }
  if (center) byId("card").parentElement.scrollIntoView({ block: "nearest" });
  draw();
}

/** Draw a cut-out with the ellipses of the source and the places of the others. */
function drawCutout(target, source) {
  const { n, half_deg: half } = data.cutout, layer = target.dataset.layer, zoomed = 6;
  const start = source.row * n * n;
  const values = decode(cutouts[layer].subarray(start, start + n * n), VALUES[layer]);
  const small = document.createElement("canvas");
  const known = values.filter((value) => value === value);
  const top = known.reduce((a, b) => Math.max(a, b), 0) || 1;
  paint(small, values, n, n, stretched(layer, top, 0.3), colors[LAYERS[layer].color], () => true);
  target.width = target.height = n * zoomed;
  const pen = target.getContext("2d"), size = n * zoomed, scale = size / (2 * half);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, size, size);
  const place = (vector) => {
    const depth = dot(vector, source.vector) * DEGREE;
    const [x, y] = source.axes.map((axis) => dot(vector, axis) / depth);
    return [size / 2 - x * scale, size / 2 - y * scale];
  };
  for (const percent of [68, 95]) {
    const points = ellipse(source, percent).map(place);
    for (const [color, width] of [["rgba(0, 0, 0, 0.8)", 4], ["#fff", 1.8]]) {
      pen.strokeStyle = color;
      pen.lineWidth = width;
      pen.beginPath();
      for (const point of points) pen.lineTo(...point);
      pen.stroke();
    }
  }
  for (const other of sources) {
    if (other === source || dot(other.vector, source.vector) < Math.cos(1.5 * half * DEGREE)) continue;
    const [x, y] = place(other.vector);
    pen.strokeStyle = other.color;
    pen.lineWidth = 2;
    pen.strokeRect(x - 5, y - 5, 10, 10);
  }
}

/** Spectrum of a source as an SVG: fluxes, or counts, of the bands with errors and limits. */
function spectrum(row) {
  const name = ["Flux_Band", "Counts_Band"].find((key) => at(key, row)?.some((v) => v !== null));
  if (!name || data.bands.length !== at(name, row).length + 1) return "";
  const points = at(name, row).map((value, k) => ({
    value, error: at(`Unc_${name}`, row)[k], low: data.bands[k], high: data.bands[k + 1],
    limit: data.limits[name]?.[row][k] ?? null,
  })).filter(({ value, error }) => value !== null && error !== null);
  for (const point of points) {
    point.top = point.limit ?? point.value + point.error;
    point.bottom = point.limit ? point.top / 3 : Math.max(point.value - point.error, point.value / 10);
  }
  const all = points.flatMap(({ top, bottom }) => [top, bottom]).filter((value) => value > 0);
  if (!all.length) return "";
  const log = Math.log10, [width, height, left, bottom] = [340, 190, 52, 34];
  const xs = [log(data.bands[0]), log(data.bands.at(-1))];
  const ys = [Math.floor(log(Math.min(...all)) * 4 - 0.3) / 4, Math.ceil(log(Math.max(...all)) * 4 + 0.3) / 4];
  const x = (e) => left + ((log(e) - xs[0]) / (xs[1] - xs[0])) * (width - left - 16);
  const y = (v) => height - bottom - ((log(v) - ys[0]) / (ys[1] - ys[0])) * (height - bottom - 8);
  const ticks = (low, high) => {
    const decades = Array.from({ length: Math.floor(high) - Math.ceil(low) + 1 }, (_, k) => Math.ceil(low) + k);
    return decades.length > 1 ? decades.map((k) => 10 ** k) : [low, high].map((k) => 10 ** k);
  };
  const text = (v) => (v >= 1e-2 && v < 1e5 ? number(v, 2) : v.toExponential(0));
  const grid = ticks(...ys).map((v) => `<line class="grid" x1="${left}" x2="${width - 8}" y1="${y(v)}" y2="${y(v)}"/>
    <text x="${left - 4}" y="${y(v) + 3}" text-anchor="end">${text(v)}</text>`);
  const marks = [...new Set(data.bands)].map((e) => `<line x1="${x(e)}" x2="${x(e)}" y1="${height - bottom}" y2="${height - bottom + 4}"/>
    <text x="${x(e)}" y="${height - bottom + 15}" text-anchor="middle">${number(e, 3)}</text>`);
  const shapes = points.map(({ value, low, high, limit, top, bottom: end }) => {
    const middle = x(Math.sqrt(low * high)), level = y(limit ? top : value);
    const arrow = `M${middle - 3} ${y(end) - 5}l3 5l3 -5`;
    return `<line x1="${x(low)}" x2="${x(high)}" y1="${level}" y2="${level}"/>
      <line x1="${middle}" x2="${middle}" y1="${y(top)}" y2="${y(end)}"/>${limit ? `<path d="${arrow}"/>` : ""}`;
  });
  const label = name === "Flux_Band" ? "Flux in the band, ph cm⁻² s⁻¹" : "Counts in the band";
  return `<figure><svg class="spectrum" viewBox="0 0 ${width} ${height}" role="img" aria-label="Spectrum: ${label}">
    ${grid.join("")}${marks.join("")}${shapes.join("")}
    <line x1="${left}" x2="${width - 8}" y1="${height - bottom}" y2="${height - bottom}"/>
    <text x="${(left + width) / 2}" y="${height - 4}" text-anchor="middle">Energy, GeV</text></svg>
    <figcaption>${label}; errors of 1 σ; arrows: 95 % limits where TS < 4</figcaption></figure>`;
}

// The table

const HEADS = [
  ["Source_Name", "Name"], ["GLON", "l"], ["GLAT", "b"], ["Score"], ["Sqrt_TS", "√TS"], ["Npred", "Counts"],
  ["Flux"], ["Spectral_Index", "Index"], ["Class"], ["ASSOC", "Association"], ["Flags"],
].filter(([name]) => name === "Class" || has(name));
const isText = (name) => ["Source_Name", "Class", "ASSOC"].includes(name);

function cellText(name, row) {
  if (name === "Class") return data.shown_class[row] ? sources[row].kind : "";
  if (name === "Flags") return flagWords(row).join("; ");
  if (isText(name)) return at(name, row) ?? "";
  if (["GLON", "GLAT", "Score"].includes(name)) return at(name, row)?.toFixed(3) ?? "–";
  return withError(name, row);
}

/** Fill the table with the sources that pass the filters, in their order. */
function list() {
  const form = byId("filters").elements, words = form.text.value.toLowerCase().split(/\s+/);
  const [low, high] = [form.low, form.high].map(({ value }) => (value === "" ? null : Number(value)));
  const flag = form.flag.value, { name, sign } = state.sort;
  state.listed = sources.filter((source) => {
    const score = at("Score", source.row);
    return words.every((word) => source.text.includes(word)) &&
      (form.kind.value === "*" || data.shown_class[source.row] === form.kind.value) &&
      (flag === "" || (flag === "-1" ? !source.doubted : at("Flags", source.row) & flag)) &&
      (low === null || score >= low) && (high === null || score <= high);
  }).map((source) => source.row);
  if (name) {
    const value = (row) => (isText(name) ? cellText(name, row) : at(name, row));
    state.listed.sort((a, b) => {
      const [p, q] = [value(a), value(b)];
      if (p === null || q === null) return (p === null) - (q === null);
      return sign * (isText(name) ? p.localeCompare(q, "en", { numeric: true }) : p - q);
    });
  }
  byId("table").tBodies[0].innerHTML = state.listed.map((row) => `<tr data-row="${row}"${row === state.current ? ' aria-current="true"' : ""}>
<td><input type="checkbox" aria-label="Select ${escaped(at("Source_Name", row))}"></td>${HEADS.map(([head]) =>
    `<td${isText(head) || head === "Flags" ? "" : ' class="number"'}>${head === "Source_Name" ? `<button type="button">${escaped(cellText(head, row))}</button>` : escaped(cellText(head, row))}</td>`).join("")}</tr>`).join("");
  byId("number").textContent = `${state.listed.length} of ${nSources}`;
  showChosen();
  draw();
}

function makeHeads() {
  const cells = HEADS.map(([name, label]) => `<th scope="col" aria-sort="none" data-name="${name}" class="${isText(name) || name === "Flags" ? "text" : "number"}"
    title="${escaped(data.about[name]?.[0] ?? "")}"><button type="button">${label ?? name} <small>${data.about[name]?.[1] ?? ""}</small></button></th>`);
  byId("table").tHead.innerHTML = `<tr><th scope="col"><input type="checkbox" aria-label="Select all listed sources"></th>${cells.join("")}</tr>`;
  byId("table").tHead.addEventListener("click", ({ target }) => {
    const head = target.closest("th[data-name]");
    if (!head) return;
    const { name } = head.dataset, { sort } = state;
    state.sort = { name, sign: sort.name === name ? -sort.sign : 1 };
    for (const other of head.parentElement.cells) other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", state.sort.sign > 0 ? "ascending" : "descending");
    list();
  });
  byId("table").tHead.querySelector("input").addEventListener("change", ({ target }) => {
    for (const row of state.listed) target.checked ? state.chosen.add(row) : state.chosen.delete(row);
    showChosen();
    draw();
  });
  byId("table").tBodies[0].addEventListener("click", ({ target }) => {
    const row = Number(target.closest("tr").dataset.row);
    if (target.type !== "checkbox") return open(row, true);
    target.checked ? state.chosen.add(row) : state.chosen.delete(row);
    showChosen();
    draw();
  });
}

// The export

const EXPORTS = {
  csv: (rows) => {
    const names = Object.keys(columns).filter((name) => !Array.isArray(columns[name][0]));
    const cell = (value) => (/[",\n]/.test(value) ? `"${String(value).replace(/"/g, '""')}"` : value ?? "");
    return [names, ...rows.map((row) => names.map((name) => cell(at(name, row))))].map((line) => line.join(",")).join("\n");
  },
  reg: (rows) => ["# Region file format: DS9 version 4.1", "icrs", ...rows.flatMap((row) => {
    const place = `${at("RAJ2000", row)},${at("DEJ2000", row)}`;
    const style = `color=${sources[row].color}${sources[row].doubted ? " dash=1" : ""}`;
    const [a, b, angle] = ["SemiMajor", "SemiMinor", "PosAng"].map((part) => at(`Conf_95_${part}`, row));
    return [`point(${place}) # point=cross ${style} text={${at("Source_Name", row).replace(/[{}\\]/g, " ")}}`,
      ...(a === null ? [] : [`ellipse(${place},${a},${b},${((angle + 90) % 360).toFixed(3)}) # ${style}`])];
  })].join("\n"),
  py: (rows) => `from astro_unetloc import read_catalog

names = [
${rows.map((row) => `    ${JSON.stringify(at("Source_Name", row))},`).join("\n")}
]
catalog = read_catalog("catalog.fits")
selected = catalog[[name in names for name in catalog["Source_Name"]]]`,
};

/** Show which sources are selected, and the text of the export. */
function showChosen() {
  const rows = state.chosen.size ? [...state.chosen].sort((a, b) => a - b) : state.listed;
  for (const line of byId("table").tBodies[0].rows) {
    line.querySelector("input").checked = state.chosen.has(Number(line.dataset.row));
  }
  byId("chosen").textContent = `${state.chosen.size} selected`;
  byId("text").value = `${EXPORTS[byId("format").value](rows)}\n`;
}

byId("format").addEventListener("change", showChosen);
byId("clear").addEventListener("click", () => (state.chosen.clear(), showChosen(), draw()));
byId("copy").addEventListener("click", () => {
  byId("text").select();
  document.execCommand("copy"); // works for files too, which the newer interface may not
});
byId("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([byId("text").value], { type: "text/plain" }));
  link.download = `sources.${byId("format").value}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

// The beginning

function makeLayers() {
  byId("layers").innerHTML = Object.keys(LAYERS).filter((name) => name in images)
    .map((name) => `<button type="button" data-layer="${name}" aria-pressed="${name === state.layer}">${LAYERS[name].label}</button>`).join("");
}

function makeControls() {
  for (const [name, [word]] of Object.entries(data.classes)) {
    byId("filters").elements.kind.add(new Option(word, name));
  }
  for (const [bit, words] of data.flags) byId("filters").elements.flag.add(new Option(words, bit));
  const ring = (color, dash) => `<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6" fill="none" stroke="${color}" stroke-width="2.5" stroke-dasharray="${dash}"/></svg>`;
  const present = Object.entries(data.classes).filter(([name]) => data.shown_class.includes(name));
  byId("legend").innerHTML = [...present.map(([name, [word, color]]) => [color, "", `${word} (${data.shown_class.filter((c) => c === name).length})`]),
    ["currentColor", "3 3", "flags question the source"]]
    .map(([color, dash, words]) => `<span>${ring(color, dash)} ${words}</span>`).join("") +
    "<span>ellipses: 95 % of the position, where they are larger than the ring</span>";
  byId("layers").addEventListener("click", ({ target }) => {
    if (!target.dataset.layer) return;
    state.layer = target.dataset.layer;
    for (const button of byId("layers").children) button.ariaPressed = String(button === target);
    render();
  });
  byId("in").onclick = () => zoom(1.5);
  byId("out").onclick = () => zoom(1 / 1.5);
  byId("fit").onclick = () => (fit(), draw());
  for (const id of ["marks", "box"]) {
    byId(id).onclick = ({ target }) => {
      target.ariaPressed = String(target.ariaPressed !== "true");
      draw();
    };
  }
  byId("stretch").oninput = byId("smoothing").oninput = () => requestAnimationFrame(render);
  byId("filters").addEventListener("input", list);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(() => (state.view.scale === state.view.least && fit(), draw())).observe(canvas);
  addEventListener("beforeprint", draw);
}

/** Values of the whole numbers of each kind of image; counts are per pixel, the model per deg2. */
const { probability, sigma, density: [least, factor] } = data.scales;
const VALUES = {
  counts: (n) => n, probability: (n) => probability * n, model: (n) => least * Math.exp(factor * n),
  residual: (n) => sigma * (n - 127),
};

/** Unpack the images of a layer: the picture, and the cut-outs as whole numbers. */
async function load(name) {
  if (name in data.layers) images[name] = decode(await unpack(data.layers[name]), VALUES[name]);
  if (name in data.cutouts) cutouts[name] = await unpack(data.cutouts[name]);
}

async function start() {
  await load("counts");
  const { step, projection } = plane;
  const [left, right, low, high] = data.plane.box;
  const shape = (right - left + 1) / (high - low + 1);
  canvas.style.setProperty("--shape", Math.max(0.8, Math.min(shape, 3)));
  byId("smoothing").value = (projection === "AIT" ? 0.4 : 0.08) / step;
  byId("stretch").value = projection === "AIT" ? 0.6 : 0.4;
  fit();
  makeControls();
  makeHeads();
  makeLayers();
  render();
  list();
  for (const name of Object.keys(data.layers)) if (name !== "counts") await load(name);
  makeLayers();
  if (nSources) open(0);
  document.documentElement.dataset.ready = "yes";
}
start();
