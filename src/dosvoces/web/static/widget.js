// <dosvoces-call>: asks for a call on a page of a site, and tells how it goes. See docs/howto/widget.md.
//
// Nothing is loaded besides, no inline style and no markup from texts is used, so that it stands under a strict
// Content-Security-Policy and Trusted Types: script-src and connect-src need the address of this service.

const TEXTS = /*TEXTS*/ {};
const SERVICE = new URL("./widget/", import.meta.url);
const POLL_MS = 1000;
const PATIENCE = 10; // questions in a row that may stay without an answer
const FINAL = new Set(["ended", "visitor_unreached", "agent_unreached", "cancelled", "failed"]);

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
  :host { display: block; max-width: 26rem; font: inherit; color: var(--dosvoces-text, #1a1a1a); }
  :host([hidden]) { display: none; }
  form, section { display: grid; gap: .75rem; }
  h2 { margin: 0; font-size: 1.15em; }
  p { margin: 0; }
  label { font-weight: 600; }
  .hint { color: var(--dosvoces-soft, #555); font-size: .9em; }
  .field { display: grid; gap: .25rem; }
  input[type=tel] { font: inherit; padding: .6rem; border: 1px solid #6b6b6b; border-radius: .3rem;
                    background: #fff; color: #1a1a1a; }
  input[aria-invalid=true] { border: 2px solid #b00020; }
  .consent { display: grid; grid-template-columns: auto 1fr; gap: .25rem .6rem; align-items: start; }
  .consent label { font-weight: 400; }
  .consent input { inline-size: 1.4rem; block-size: 1.4rem; margin: 0; }
  .consent .error, .consent a { grid-column: 2; justify-self: start; }
  a { color: var(--dosvoces-link, #0b4f9c); }
  button { font: inherit; font-weight: 600; padding: .75rem 1rem; border: 0; border-radius: .3rem; cursor: pointer;
           background: var(--dosvoces-button, #0b4f9c); color: var(--dosvoces-button-text, #fff); }
  button:disabled { background: #595959; color: #fff; cursor: default; }
  :focus-visible { outline: 3px solid var(--dosvoces-focus, #0b4f9c); outline-offset: 2px; }
  .error { color: var(--dosvoces-error, #b00020); }
  .error:empty, [role=status]:empty { display: none; }
  [role=status] { padding: .75rem; border-inline-start: 4px solid var(--dosvoces-button, #0b4f9c);
                  background: #eef4fb; color: #1a1a1a; }
  .live [role=status] { animation: dosvoces-wait 1.6s ease-in-out infinite alternate; }
  @keyframes dosvoces-wait { to { border-inline-start-color: #7fb2ea; } }
  @media (prefers-reduced-motion: reduce) { .live [role=status] { animation: none; } }
  @media (forced-colors: active) { button { border: 1px solid; } }
`);

function element(name, properties = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

class DosvocesCall extends HTMLElement {
  #texts;
  #parts;
  #token = "";
  #timer;
  #state = "";

  connectedCallback() {
    if (this.#parts) return;
    const locale = this.#locale();
    this.#texts = TEXTS[locale];
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [STYLE];
    const parts = this.#build(locale);
    root.append(parts.section);
    parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    for (const input of [parts.number, parts.consent]) input.addEventListener("input", () => this.#wrong(input, ""));
    this.#parts = parts;
  }

  disconnectedCallback() {
    clearTimeout(this.#timer);
  }

  /** The language of the element, of the page around it, of the browser; the first that there is. */
  #locale() {
    const around = this.closest("[lang]")?.lang ?? "";
    const wanted = [around, ...navigator.languages].map((tag) => tag.slice(0, 2).toLowerCase());
    return wanted.find((tag) => tag in TEXTS) ?? "en";
  }

  #build(locale) {
    const text = this.#texts;
    const example = this.getAttribute("example") ?? "600 123 456";
    const title = element("h2", { id: "title", textContent: text.title });
    const number = element("input", {
      type: "tel", id: "number", name: "number", autocomplete: "tel", inputMode: "tel", required: true, maxLength: 40,
      "aria-describedby": "number-hint number-error",
    });
    const consent = element("input", { type: "checkbox", id: "consent", required: true, "aria-describedby": "consent-error" });
    const button = element("button", { type: "submit", textContent: text.submit });
    const status = element("p", { role: "status", "aria-live": "polite" });
    const form = element("form", { noValidate: true, "aria-labelledby": "title" }, [
      element("div", { className: "field" }, [
        element("label", { htmlFor: "number", textContent: text.number }),
        element("span", { className: "hint", id: "number-hint", textContent: text.number_hint.replace("{example}", example) }),
        number,
        element("span", { className: "error", id: "number-error" }),
      ]),
      element("div", { className: "consent" }, [
        consent,
        element("label", { htmlFor: "consent", textContent: text.consent }),
        element("a", { href: text.privacy_url, target: "_blank", rel: "noopener", textContent: text.privacy }),
        element("span", { className: "error", id: "consent-error" }),
      ]),
      button,
    ]);
    const section = element("section", { lang: locale, "aria-labelledby": "title" }, [title, form, status]);
    return { section, form, number, consent, button, status };
  }

  /** Tie `message` to the field, or take it away. */
  #wrong(input, message) {
    input.setAttribute("aria-invalid", message ? "true" : "false");
    this.shadowRoot.getElementById(`${input.id}-error`).textContent = message;
  }

  async #submit() {
    const { number, consent, button } = this.#parts;
    if (button.disabled) return;
    this.#wrong(number, number.value.trim() ? "" : this.#texts.number_missing);
    this.#wrong(consent, consent.checked ? "" : this.#texts.consent_missing);
    const first = [number, consent].find((input) => input.getAttribute("aria-invalid") === "true");
    if (first) return first.focus();
    button.disabled = true;
    this.#tell("starting");
    try {
      this.#token = await this.#newToken();
      this.#answered(await this.#post("calls", {
        token: this.#token, number: number.value, consent: this.#texts.consent_version,
      }));
    } catch {
      this.#failed("unreachable");
    }
  }

  /** From the attribute `token`, or from `token-url` on the site's own server, at the moment when it is needed. */
  async #newToken() {
    const url = this.getAttribute("token-url");
    if (!url) return this.getAttribute("token") ?? "";
    const answer = await fetch(url, { method: "POST", headers: { accept: "text/plain" } });
    if (!answer.ok) throw new Error(`no token: ${answer.status}`);
    return (await answer.text()).trim();
  }

  async #post(path, body) {
    const answer = await fetch(new URL(path, SERVICE), {
      method: "POST", mode: "cors", credentials: "omit", headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    return answer.json();
  }

  #answered(told) {
    if (told.state) return this.#follow(told.state);
    if (told.field === "number") {
      this.#tell("");
      this.#parts.button.disabled = false;
      this.#wrong(this.#parts.number, this.#texts[told.code] ?? this.#texts.number_refused);
      return this.#parts.number.focus();
    }
    this.#failed(told.code);
  }

  #failed(code) {
    this.#parts.button.disabled = ["expired", "used", "bad_token"].includes(code) && !this.getAttribute("token-url");
    this.#tell(code in this.#texts ? code : "failed");
  }

  #follow(state, silent = 0) {
    this.#tell(state);
    if (FINAL.has(state)) {
      // Another call needs another token.
      this.#parts.button.disabled = !this.getAttribute("token-url");
      return;
    }
    this.#timer = setTimeout(async () => {
      try {
        const told = await this.#post("progress", { token: this.#token });
        if (told.state) return this.#follow(told.state);
      } catch {
        // The call goes on without us; a phone that changes its network is no reason to say that it doesn't.
      }
      if (silent < PATIENCE) this.#follow(state, silent + 1);
      else this.#failed("unreachable");
    }, POLL_MS);
  }

  #tell(state) {
    if (state === this.#state) return; // What is said again is read aloud again.
    this.#state = state;
    const text = state ? this.#texts[state] : "";
    this.#parts.status.textContent = text;
    this.#parts.section.classList.toggle("live", Boolean(state) && !FINAL.has(state) && this.#parts.button.disabled);
    this.dispatchEvent(new CustomEvent("dosvoces-progress", { detail: { state }, bubbles: true, composed: true }));
  }
}

customElements.define("dosvoces-call", DosvocesCall);
