// What the page draws with: packed arrays, projections of the sky, smoothed images.
// Directions are Galactic unit vectors; pixels are 0-based, centres at integers, y upwards.

const DEGREE = Math.PI / 180;

/** Unit vector of a longitude and a latitude in degrees. */
function toVector(lon, lat) {
  const [l, b] = [lon * DEGREE, lat * DEGREE];
  return [Math.cos(b) * Math.cos(l), Math.cos(b) * Math.sin(l), Math.sin(b)];
}

/** Longitude in [0, 360) and latitude in degrees of a vector. */
function toLonLat([x, y, z]) {
  return [((Math.atan2(y, x) / DEGREE) + 360) % 360, Math.atan2(z, Math.hypot(x, y)) / DEGREE];
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) =>
  [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (v) => v.map((part) => part / Math.hypot(...v));

/** Unit vectors towards east and north at a direction, for the pole of a frame. */
function tangentAxes(vector, pole) {
  const across = cross(pole, vector);
  const east = Math.hypot(...across) > 1e-9 ? unit(across) : [0, 1, 0];
  return [east, cross(vector, east)];
}

/** Direction at offsets in degrees along two axes of a tangent plane. */
function moved(vector, [east, north], x, y) {
  return unit(vector.map((part, k) => part + DEGREE * (x * east[k] + y * north[k])));
}

/** Pixels of an image of the sky: gnomonic (TAN) or Hammer-Aitoff (AIT), FITS WCS Paper II. */
class Plane {
  constructor({ projection, lon, lat, nx, ny, step }) {
    Object.assign(this, { projection, nx, ny, step });
    this.middle = [(nx - 1) / 2, (ny - 1) / 2];
    this.center = toVector(lon, lat);
    this.axes = tangentAxes(this.center, [0, 0, 1]);
  }

  /** Pixel [x, y] of a direction; null behind a tangent plane. */
  pixel(vector) {
    let x, y;
    if (this.projection === "TAN") {
      const depth = dot(vector, this.center);
      if (depth < 1e-3) return null;
      [x, y] = this.axes.map((axis) => dot(vector, axis) / depth);
    } else {
      const half = Math.atan2(vector[1], vector[0]) / 2, flat = Math.hypot(vector[0], vector[1]);
      const scale = Math.sqrt(2 / (1 + flat * Math.cos(half)));
      [x, y] = [2 * scale * flat * Math.sin(half), scale * vector[2]];
    }
    const pixels = 1 / (this.step * DEGREE);
    return [this.middle[0] - x * pixels, this.middle[1] + y * pixels];
  }

  /** Direction of a pixel; null off the sky. */
  vector(px, py) {
    const x = (this.middle[0] - px) * this.step * DEGREE;
    const y = (py - this.middle[1]) * this.step * DEGREE;
    if (this.projection === "TAN") {
      return unit(this.center.map((part, k) => part + x * this.axes[0][k] + y * this.axes[1][k]));
    }
    const square = 1 - (x / 4) ** 2 - (y / 2) ** 2;
    if (square < 0.5) return null;
    const z = Math.sqrt(square);
    const lon = 2 * Math.atan2((z * x) / 2, 2 * square - 1);
    return toVector(lon / DEGREE, Math.asin(Math.max(-1, Math.min(1, y * z))) / DEGREE);
  }

  /** Whether two pixels of neighbouring directions lie at opposite ends of the sky. */
  torn(a, b) {
    return this.projection === "AIT" && Math.abs(a[0] - b[0]) > this.nx / 2;
  }
}

/** Whole numbers of a packed array, a promise of a typed array. */
async function unpack({ bits, steps, data }) {
  const text = atob(data), bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const numbers = new { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array }[bits](buffer);
  if (steps) for (let i = 1; i < numbers.length; i++) numbers[i] += numbers[i - 1];
  return numbers;
}

/** Values of whole numbers by a function of them; NaN for 0, where nothing was observed. */
function decode(numbers, value) {
  const values = new Float32Array(numbers.length);
  for (let i = 0; i < values.length; i++) values[i] = numbers[i] ? value(numbers[i] - 1) : NaN;
  return values;
}

/** Gaussian weights of a width in pixels, of sum 1. */
function gaussian(sigma) {
  const reach = Math.ceil(3 * sigma), weights = [];
  for (let k = -reach; k <= reach; k++) weights.push(sigma ? Math.exp(-0.5 * (k / sigma) ** 2) : 1);
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

/** Sums of an image times weights along both axes; it is zero outside and where it is NaN. */
function convolve(image, nx, ny, weights) {
  const reach = (weights.length - 1) / 2;
  const rows = new Float32Array(nx * ny), sums = new Float32Array(nx * ny);
  for (let y = 0; y < ny; y++) {
    for (let x = 0; x < nx; x++) {
      const value = image[y * nx + x];
      if (!(value !== 0 && value === value)) continue; // most pixels hold no count
      const low = Math.max(-reach, -x), high = Math.min(reach, nx - 1 - x);
      for (let k = low; k <= high; k++) rows[y * nx + x + k] += value * weights[k + reach];
    }
  }
  for (let y = 0; y < ny; y++) {
    const low = Math.max(-reach, -y), high = Math.min(reach, ny - 1 - y);
    for (let k = low; k <= high; k++) {
      const weight = weights[k + reach], to = y * nx, from = (y + k) * nx;
      for (let x = 0; x < nx; x++) sums[to + x] += weight * rows[from + x];
    }
  }
  return sums;
}

/** Weighted mean of the observed pixels around each pixel; NaN where it was not observed. */
function smooth(image, nx, ny, sigma) {
  if (!sigma) return image;
  const weights = gaussian(sigma);
  const sums = convolve(image, nx, ny, weights);
  const norm = convolve(image.map((value) => (value === value ? 1 : 0)), nx, ny, weights);
  return sums.map((sum, i) => (image[i] === image[i] ? sum / norm[i] : NaN));
}

/** Value below which a fraction of the known values of an image lie, of at most 50 000 of them. */
function quantile(image, fraction) {
  const step = Math.max(1, Math.floor(image.length / 50000)), sample = [];
  for (let i = 0; i < image.length; i += step) if (image[i] === image[i]) sample.push(image[i]);
  sample.sort((a, b) => a - b);
  return sample.length ? sample[Math.floor(fraction * (sample.length - 1))] : 0;
}

/** 256 colors of a table, as numbers that a row of `ImageData` holds. */
function colorTable(text) {
  return Uint32Array.from({ length: 256 }, (_, k) => {
    const [r, g, b] = [0, 2, 4].map((at) => parseInt(text.slice(6 * k + at, 6 * k + at + 2), 16));
    return (255 << 24) | (b << 16) | (g << 8) | r;
  });
}
