// Node's HTTP clients through a proxy, each case one function: node_client.mjs 1|2 URL [--ca FILE] CASE...
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import { setTimeout as wait } from 'node:timers/promises'

const LIMIT = 20_000 // milliseconds: no case may take longer

// One connection with many streams.
class Http2 {
  constructor(url, ca) {
    this.session = http2.connect(url, { ca })
    this.session.on('error', (error) => (this.error = error))
  }

  // Begins a request; gives the stream that is its body and its answer's.
  begin(method, path, { fields = {}, trailers, ends = false } = {}) {
    const stream = this.session.request({ ':method': method, ':path': path, ...fields },
      { endStream: ends, waitForTrailers: trailers !== undefined })
    if (trailers) stream.on('wantTrailers', () => stream.sendTrailers(trailers))
    const hints = []
    stream.on('headers', (fields) => hints.push(fields))
    const answered = once(stream, 'response').then(([fields]) =>
      ({ status: fields[':status'], fields, hints, body: stream }))
    const ended = new Promise((resolve) => stream.on('trailers', resolve))
    answered.catch(() => {})
    return { request: stream, answered, trailers: () => ended, give_up: () => stream.close(http2.constants.NGHTTP2_CANCEL) }
  }

  async tunnel(path) {
    if (!this.session.remoteSettings.enableConnectProtocol) await once(this.session, 'remoteSettings')
    assert.equal(this.session.remoteSettings.enableConnectProtocol, true)
    const stream = this.session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':path': path,
      ':scheme': 'http', 'sec-websocket-version': '13' }, { endStream: false })
    const [fields] = await once(stream, 'response')
    assert.equal(fields[':status'], 200)
    return stream
  }

  async close() {
    this.session.close()
    if (!this.session.destroyed) await once(this.session, 'close')
  }
}

// A pool of connections.
class Http1 {
  constructor(url, ca) {
    this.url = url
    this.module = url.startsWith('https:') ? https : http
    this.agent = new this.module.Agent({ keepAlive: true, maxSockets: 16, ca })
  }

  begin(method, path, { fields = {}, trailers, ends = false } = {}) {
    const request = this.module.request(this.url + path, { method, agent: this.agent,
      headers: { ...fields, ...(trailers && { trailer: Object.keys(trailers).join() }) } })
    if (trailers) request.addTrailers(trailers)
    const hints = []
    request.on('information', ({ statusCode, headers }) => hints.push({ ':status': statusCode, ...headers }))
    const answered = once(request, 'response').then(([answer]) =>
      ({ status: answer.statusCode, fields: answer.headers, hints, body: answer }))
    answered.catch(() => {})
    request.on('error', () => {})
    if (ends) request.end()
    return { request, answered, trailers: async () => (await answered).body.trailers, give_up: () => request.destroy() }
  }

  async tunnel(path) {
    const request = this.module.request(this.url + path, { agent: this.agent, headers: { connection: 'Upgrade',
      upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': randomBytes(16).toString('base64') } })
    request.end()
    const [answer, socket] = await once(request, 'upgrade')
    assert.equal(answer.statusCode, 101)
    return socket
  }

  async close() {
    this.agent.destroy()
  }
}

async function all(stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

async function exchange(client, method, path, { body, ...more } = {}) {
  const one = client.begin(method, path, { ends: body === undefined && !more.trailers, ...more })
  if (body !== undefined || more.trailers) one.request.end(body)
  const answer = await one.answered
  const bytes = await all(answer.body)
  return { ...answer, bytes, text: bytes.toString(), one }
}

const seen = async (client) => JSON.parse((await exchange(client, 'GET', '/seen')).text)

const cases = {
  // 200 requests at once, each with its own body.
  async many(client) {
    const bodies = Array.from({ length: 200 }, (_, number) => `${number} `.repeat(500))
    const answers = await Promise.all(bodies.map((body) => exchange(client, 'POST', '/echo', { body })))
    assert.deepEqual(answers.map(({ status, text }) => [status, text]), bodies.map((body) => [200, body]))
  },

  // Trailers in both directions.
  async trailers(client) {
    const { status, text, one } = await exchange(client, 'POST', '/echo',
      { body: 'hello', fields: { te: 'trailers' }, trailers: { 'x-sent': 'from the client' } })
    assert.deepEqual([status, text], [200, 'hello'])
    const trailers = await one.trailers()
    assert.deepEqual([trailers['x-bytes'], trailers['x-got']], ['5', 'from the client'])
  },

  // 103 before the answer.
  async hints(client) {
    const { status, text, hints } = await exchange(client, 'GET', '/hints')
    assert.deepEqual([status, text], [200, 'after the hints'])
    assert.deepEqual(hints.map((hint) => [hint[':status'], hint.link]), [[103, '</style.css>; rel=preload; as=style']])
  },

  // 8 MiB there and back.
  async large(client) {
    const body = randomBytes(8 << 20)
    const { status, bytes } = await exchange(client, 'PUT', '/echo', { body })
    assert.equal(status, 200)
    assert.ok(bytes.equals(body))
  },

  // An answer that breaks off is an error, never an end.
  async broken(client) {
    const one = client.begin('GET', '/broken', { ends: true })
    const answer = await one.answered
    assert.equal(answer.status, 200)
    await assert.rejects(all(answer.body))
  },

  // A request that is given up, before and amid its answer, ends at the instance.
  async cancel(client) {
    const before = (await seen(client)).aborted
    assert.equal(typeof before, 'number')
    const silent = client.begin('GET', '/silent', { ends: true })
    const endless = client.begin('GET', '/endless', { ends: true })
    const { body } = await endless.answered
    body.on('error', () => {})
    await once(body, 'data')
    await wait(100)
    silent.request.on('error', () => {})
    silent.give_up()
    endless.give_up()
    for (const end = Date.now() + 5000; (await seen(client)).aborted < before + 2; await wait(20)) {
      assert.ok(Date.now() < end, 'the instance goes on')
    }
  },

  // A tunnel: an upgrade, or an extended CONNECT.
  async tunnel(client) {
    const socket = await client.tunnel('/chat')
    const sent = randomBytes(1 << 20)
    const back = all(socket)
    socket.write('hello')
    await wait(20)
    socket.end(sent)
    assert.ok((await back).equals(Buffer.concat([Buffer.from('hello'), sent])))
  },

  async head(client) {
    const { status, fields, bytes } = await exchange(client, 'HEAD', '/length')
    assert.deepEqual([status, fields['content-length'], bytes.length], [200, '5', 0])
    assert.equal((await exchange(client, 'GET', '/length')).text, 'hello')
    assert.equal((await exchange(client, 'GET', '/nothing-there')).status, 404)
  },

  // Cookies in one line, whether they came in several or not (RFC 9113, section 8.2.3).
  async cookies(client) {
    const cookie = client instanceof Http2 ? ['a=1', 'b=2', 'c=3'] : 'a=1; b=2; c=3'
    const { text } = await exchange(client, 'GET', '/fields', { fields: { cookie } })
    assert.equal(JSON.parse(text).cookie, 'a=1; b=2; c=3')
  },

  // The client waits for 100 Continue before it sends.
  async expect(client) {
    const one = client.begin('POST', '/echo', { fields: { expect: '100-continue', 'content-length': 5 } })
    one.request.flushHeaders?.()
    await once(one.request, 'continue')
    one.request.end('hello')
    const answer = await one.answered
    assert.deepEqual([answer.status, (await all(answer.body)).toString()], [200, 'hello'])
  },
}

const [version, url, ...rest] = process.argv.slice(2)
const ca = rest[0] === '--ca' ? readFileSync(rest.splice(0, 2)[1]) : undefined
for (const name of rest) {
  const client = version === '2' ? new Http2(url, ca) : new Http1(url, ca)
  const late = setTimeout(() => {
    console.error(`${name}: nothing happens any more`)
    process.exit(1)
  }, LIMIT)
  await cases[name](client)
  await client.close()
  clearTimeout(late)
  console.log('ok', name)
}
