// The upload box in the browser: a file goes to the kernel as a message, its answer comes back.
// A message above Jupyter's limit would cut the connection, so such a file is not sent at all.

const PATIENCE_SECONDS = 30;

function render({ model, el }) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const answer = document.createElement("div");
  Object.assign(input, { type: "file", accept: "image/*" });
  label.append("Choose a picture: ", input);
  answer.setAttribute("role", "status"); // a screen reader says what appears here
  el.append(label, answer);

  let patience;
  const say = (words) => {
    clearTimeout(patience);
    answer.replaceChildren(Object.assign(document.createElement("p"), { textContent: words }));
  };
  const show = () => {
    clearTimeout(patience);
    answer.innerHTML = model.get("answer");
  };
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (!file) return;
    const most = model.get("most_mb");
    if (file.size > most * 1e6) {
      const size = Math.ceil(file.size / 1e5) / 10;
      say(`${file.name} has ${size} MB, and Jupyter takes at most ${most} MB: make it smaller.`);
      return;
    }
    say("The picture is on its way ...");
    try {
      const content = await file.arrayBuffer();
      model.send({ name: file.name }, undefined, [content]);
    } catch (error) {
      say(`${file.name} cannot be sent (${error.message}): run this cell again.`);
      return;
    }
    patience = setTimeout(
      () => say("No answer yet: wait if another cell is running; else run this cell again."),
      1000 * PATIENCE_SECONDS,
    );
  });
  model.on("change:answer", show);
  show();
  return () => {
    clearTimeout(patience);
    model.off("change:answer", show);
  };
}

export default { render };
