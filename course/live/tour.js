// Six steps through the page. It can be left at any time, and moves nothing by itself.

import { $ } from "live/views";

export class Tour {
  constructor(steps, ended) {
    this.steps = steps; // { place, title, words, show }
    this.ended = ended;
    $("start-tour").addEventListener("click", () => this.go(0));
    $("tour-back").addEventListener("click", () => this.go(this.at - 1));
    $("tour-next").addEventListener("click", () => this.go(this.at + 1));
    $("tour-leave").addEventListener("click", () => this.leave());
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !$("tour").hidden) this.leave();
    });
  }

  go(at) {
    if (at >= this.steps.length) return this.leave();
    this.#light(null);
    this.at = Math.max(0, at);
    const { place, title, words, show } = this.steps[this.at];
    $("tour").hidden = false;
    $("tour-step").textContent = `Step ${this.at + 1} of ${this.steps.length}`;
    $("tour-title").textContent = title;
    $("tour-words").textContent = words;
    $("tour-back").disabled = this.at === 0;
    $("tour-next").textContent = this.at + 1 === this.steps.length ? "Done" : "Next";
    show?.();
    this.#light($(place));
    $("tour-title").focus({ preventScroll: true });
  }

  leave() {
    this.#light(null);
    $("tour").hidden = true;
    $("start-tour").focus({ preventScroll: true });
    this.ended();
  }

  #light(element) {
    document.querySelector(".lit")?.classList.remove("lit");
    element?.classList.add("lit");
    element?.scrollIntoView({ block: "start", behavior: "instant" });
  }
}
