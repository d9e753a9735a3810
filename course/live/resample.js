// Pictures as the notebooks get them: the resampling of PIL and torchvision, which for 8-bit
// pictures is the same but for the precision of its weights, and the processor's scaling.
// Equal to `images.load_image` and `images.to_pixels` (tests/test_live.py says how closely).

const LARGEST = 1 << 15; // torchvision keeps its weights in 16 bits, with as many as fit behind the point
const STRIP = 1 << 22; // pixels that are read from a canvas at once: phones allow no more than 16 M

function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// By PIL's number, as preprocessor_config.json has it: the filter and how far it reaches.
const FILTERS = {
  2: [(x) => Math.max(0, 1 - x), 1],
  3: [cubic, 2],
};

// For each of `to` pixels the first of `from` pixels that it takes, and their whole weights, which
// sum to 2 ** precision.
export function weightsOf(from, to, resample) {
  const [filter, reach] = FILTERS[resample];
  const scale = from / to;
  const wide = Math.max(1, scale);
  let most = 0;
  const exact = Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach * wide + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach * wide + 0.5));
    const shares = Array.from({ length: end - first }, (_, j) =>
      filter(Math.abs((first + j - centre + 0.5) / wide)),
    );
    const sum = shares.reduce((a, b) => a + b, 0);
    shares.forEach((share, j) => (most = Math.max(most, (shares[j] = share / sum))));
    return { first, shares };
  });
  let precision = 0;
  while (precision < 22 && Math.trunc(0.5 + most * 2 ** (precision + 1)) < LARGEST) precision++;
  const whole = (share) => Math.trunc(share * 2 ** precision + (share < 0 ? -0.5 : 0.5));
  const taps = exact.map(({ first, shares }) => ({ first, weights: Int32Array.from(shares, whole) }));
  return { taps, precision };
}

// Rows of RGBA become rows of RGB with the width that the columns of weights say.
function shrinkRows(rgba, width, rows, { taps, precision }, into, at) {
  const half = 1 << (precision - 1);
  for (let y = 0; y < rows; y++) {
    for (const { first, weights } of taps) {
      let r = half, g = half, b = half;
      let p = 4 * (y * width + first);
      for (let i = 0; i < weights.length; i++, p += 4) {
        const weight = weights[i];
        r += weight * rgba[p];
        g += weight * rgba[p + 1];
        b += weight * rgba[p + 2];
      }
      into[at++] = r >> precision; // a Uint8ClampedArray: below 0 is 0, above 255 is 255
      into[at++] = g >> precision;
      into[at++] = b >> precision;
    }
  }
  return at;
}

// A picture (ImageBitmap, upright) as RGB of the model's size, transparency over white.
export function resize(bitmap, { width, height, resample }) {
  const columns = weightsOf(bitmap.width, width, resample);
  const lines = weightsOf(bitmap.height, height, resample);
  const narrow = new Uint8ClampedArray(3 * width * bitmap.height);
  const strip = Math.max(1, Math.min(bitmap.height, Math.floor(STRIP / bitmap.width)));
  const canvas = new OffscreenCanvas(bitmap.width, strip);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  let at = 0;
  for (let top = 0; top < bitmap.height; top += strip) {
    const rows = Math.min(strip, bitmap.height - top);
    pen.fillStyle = "white";
    pen.fillRect(0, 0, bitmap.width, rows);
    pen.drawImage(bitmap, 0, -top);
    const rgba = pen.getImageData(0, 0, bitmap.width, rows).data;
    at = shrinkRows(rgba, bitmap.width, rows, columns, narrow, at);
  }
  const rgb = new Uint8ClampedArray(3 * width * height);
  const half = 1 << (lines.precision - 1);
  lines.taps.forEach(({ first, weights }, y) => {
    for (let x = 0; x < 3 * width; x++) {
      let sum = half;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * narrow[3 * width * (first + i) + x];
      rgb[3 * width * y + x] = sum >> lines.precision;
    }
  });
  return rgb;
}

// RGB bytes as the model takes them: (3, height, width), scaled and normalised.
export function toPixels(rgb, { factor, mean, std }) {
  const size = rgb.length / 3;
  const pixels = new Float32Array(rgb.length);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < size; i++) {
      pixels[c * size + i] = (rgb[3 * i + c] * factor - mean[c]) / std[c];
    }
  }
  return pixels;
}
