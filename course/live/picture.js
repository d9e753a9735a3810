// A file becomes a picture, upright and safe to open, or a sentence.

import { make } from "live/explorer";

const MOST_BYTES = 20e6; // as `images.load_image`
const MOST_PIXELS = 89478485; // PIL's own limit
const DISPLAY = 640; // pixels of the longest side on the page

export class Refused extends Error {}

// Returns { bitmap, canvas }: what the model gets, and what the page shows.
export async function open(blob, name, patch) {
  if (blob.size > MOST_BYTES) throw new Refused(`${name} is larger than 20 MB: make it smaller.`);
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await new Promise((done, failed) => Object.assign(image, { onload: done, onerror: failed }));
    const { naturalWidth: width, naturalHeight: height } = image; // known before it is unpacked
    if (width * height > MOST_PIXELS) {
      throw new Refused(
        `${name} has ${(width * height / 1e6).toFixed(0)} million pixels, which could fill the ` +
          "memory: make it smaller.",
      );
    }
    if (Math.min(width, height) < patch && width) {
      throw new Refused(
        `${name} has ${width} × ${height} pixels, less than one patch of ${patch} × ${patch}: ` +
          "use a larger one.",
      );
    }
    // PIL knows nothing of colour profiles, and the model has learnt from its pictures.
    const bitmap = await createImageBitmap(blob, {
      colorSpaceConversion: "none",
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
    });
    return { bitmap, canvas: shown(bitmap) };
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw new Refused(`${name} is not a picture that this browser can read: use a JPEG, PNG or WebP file.`);
  } finally {
    URL.revokeObjectURL(url);
  }
}

export function shown(bitmap) {
  const scale = Math.min(1, DISPLAY / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = make("canvas", { width, height });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

// One frame of the camera, or null where the visitor cancels.
export async function photograph(dialog, video, shoot, cancel) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Refused("This browser gives no camera to this page: choose a picture instead.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch {
    throw new Refused("The camera is not there, or the browser was told not to use it: choose a picture instead.");
  }
  try {
    video.srcObject = stream;
    await video.play();
    dialog.showModal();
    const taken = await new Promise((done) => {
      shoot.onclick = () => done(true);
      cancel.onclick = () => done(false);
      dialog.oncancel = () => done(false);
    });
    if (!taken) return null;
    const bitmap = await createImageBitmap(video);
    return { bitmap, canvas: shown(bitmap) };
  } finally {
    dialog.close();
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  }
}
