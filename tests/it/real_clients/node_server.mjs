// One HTTP server by Node, over HTTP/1.1 or HTTP/2: node_server.mjs 1|2 PORT NAME [KEY CERT]
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'

const [version, port, name, key, cert] = process.argv.slice(2)
const seen = { requests: 0, aborted: 0 }

const pages = {
  '/': (request, response) => response.end(name),
  '/seen': (request, response) => response.end(JSON.stringify(seen)),
  '/fields': (request, response) => response.end(JSON.stringify(request.headers)),

  '/echo': (request, response) => {
    response.writeHead(200, { trailer: 'x-bytes, x-got' })
    let bytes = 0
    request.on('data', (chunk) => {
      bytes += chunk.length
      if (!response.write(chunk)) request.pause()
    })
    response.on('drain', () => request.resume())
    request.on('end', () => {
      response.addTrailers({ 'x-bytes': String(bytes), 'x-got': request.trailers['x-sent'] ?? 'nothing' })
      response.end()
    })
  },

  '/hints': (request, response) => {
    response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' })
    setTimeout(() => response.end('after the hints'), 50)
  },

  // An answer that breaks off: no length, no end.
  '/broken': (request, response) => {
    response.writeHead(200)
    response.write('x'.repeat(1000), () => setTimeout(() => {
      if (response.stream) response.stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR)
      else response.socket.destroy()
    }, 50))
  },

  // An answer that goes on until nobody wants it.
  '/endless': (request, response) => {
    const timer = setInterval(() => response.write('more'), 20)
    response.on('close', () => {
      clearInterval(timer)
      seen.aborted += 1
    })
  },

  // No answer at all.
  '/silent': (request, response) => response.on('close', () => (seen.aborted += 1)),

  '/length': (request, response) => {
    response.writeHead(200, { 'content-length': 5 })
    response.end(request.method === 'HEAD' ? undefined : 'hello')
  },
}

function answer(request, response) {
  seen.requests += 1
  request.on('error', () => {})
  response.on('error', () => {})
  const page = pages[request.url]
  if (page) return page(request, response)
  response.writeHead(404)
  response.end()
}

// Both ways into a tunnel that gives all bytes back.
function upgrade(request, socket, head) {
  const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
  const accept = createHash('sha1').update(key).digest('base64')
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
    `Sec-WebSocket-Accept: ${accept}\r\n\r\n`)
  socket.write(head)
  socket.on('error', () => {})
  socket.pipe(socket)
}

function extendedConnect(request) {
  const stream = request.stream
  stream.on('error', () => {})
  if (request.headers[':protocol'] !== 'websocket') return stream.respond({ ':status': 405 }, { endStream: true })
  stream.respond({ ':status': 200 })
  stream.pipe(stream)
}

const files = key && { key: readFileSync(key), cert: readFileSync(cert) }
let server
if (version === '2') {
  const settings = { settings: { enableConnectProtocol: true } }
  server = files ? http2.createSecureServer({ ...settings, ...files }) : http2.createServer(settings)
  server.on('connect', extendedConnect)
} else {
  server = files ? https.createServer(files) : http.createServer()
  server.on('upgrade', upgrade)
}
server.on('request', answer)
server.listen(Number(port), '127.0.0.1')
