// A page that is opened from a folder may not start a worker, which the search is. There it runs in a hidden frame.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = "<!doctype html><body></body>"
      frame.addEventListener("load", () => this.start(frame, address), { once: true })
      document.body.append(frame)
    }

    start(frame, address) {
      const inside = frame.contentWindow
      const load = (url) => new Promise((done, failed) => {
        const script = frame.contentDocument.createElement("script")
        Object.assign(script, { src: url, onload: done, onerror: failed })
        frame.contentDocument.body.append(script)
      })
      inside.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => load(url)), Promise.resolve())
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      load(address).then(() => {
        this.deliver = (data) => inside.dispatchEvent(new inside.MessageEvent("message", { data }))
        this.waiting.forEach(this.deliver)
      })
    }

    postMessage(data) {
      this.deliver ? this.deliver(data) : this.waiting.push(data)
    }
  }
  window.Worker = window.IFrameWorker
}
