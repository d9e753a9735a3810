// Six steps through the page, whose words stand in it. It can be left at any time.

import { $ } from "live/views";

export class Tour {
  // shows: what a step does to the page, by its number.
  constructor(shows) {
    this.shows = shows;
    this.steps = [...$("tour-steps").children];
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
    this.at = at;
    $("tour").hidden = false;
    $("tour-step").textContent = `Step ${at + 1} of ${this.steps.length}`;
    $("tour-back").disabled = at === 0;
    $("tour-next").textContent = at + 1 === this.steps.length ? "Done" : "Next";
    this.steps.forEach((step, i) => (step.hidden = i !== at));
    this.shows[at]?.();
    this.#light($(this.steps[at].dataset.place));
    this.steps[at].querySelector("h2").focus({ preventScroll: true });
  }

  leave() {
    this.#light(null);
    $("tour").hidden = true;
    $("start-tour").focus({ preventScroll: true });
  }

  #light(element) {
    document.querySelector(".lit")?.classList.remove("lit");
    if (!element) return;
    element.classList.add("lit");
    element.scrollIntoView({ block: "start", behavior: "instant" });
    // The words stand on the other side, where there is one.
    const { left, width } = element.getBoundingClientRect();
    $("tour").classList.toggle("left", left + width / 2 > innerWidth / 2);
  }
}
