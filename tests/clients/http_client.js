// Node's own client through a proxy: absolute form with keep-alive, CONNECT, Upgrade, TLS.
// Arguments: proxy port, path of a CA, then what to do. Prints JSON.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const https = require('https');

const [port, ca, task, ...args] = process.argv.slice(2);
const proxy = { host: '127.0.0.1', port: Number(port) };

function hashed(response) {
  return new Promise((resolve, reject) => {
    const hash = crypto.createHash('sha256');
    let size = 0;
    response.on('data', (part) => { hash.update(part); size += part.length; });
    response.on('end', () => resolve({ status: response.statusCode, size, sha256: hash.digest('hex'), trailers: response.trailers }));
    response.on('error', reject);
  });
}

function request(options, body) {
  return new Promise((resolve, reject) => {
    const message = http.request({ ...proxy, ...options }, (response) => resolve(hashed(response)));
    message.on('error', reject);
    message.end(body);
  });
}

function tunnel(authority) {
  return new Promise((resolve, reject) => {
    const message = http.request({ ...proxy, method: 'CONNECT', path: authority });
    message.on('connect', (response, socket, head) => {
      if (head.length) socket.unshift(head);
      resolve({ response, socket });
    });
    message.on('error', reject);
    message.end();
  });
}

const tasks = {
  // Each URL in turn over one connection; how many connections it took.
  async get(...urls) {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const ports = new Set();
    agent.on('free', (socket) => ports.add(socket.localPort));
    const answers = [];
    for (const url of urls) {
      answers.push(await request({ path: url, agent, headers: { Host: new URL(url).host } }));
    }
    agent.destroy();
    return { answers, connections: ports.size };
  },

  // A POST in chunks.
  async post(url, size) {
    return request({ method: 'POST', path: url, headers: { 'Transfer-Encoding': 'chunked' } }, Buffer.alloc(Number(size), 'ab'));
  },

  // https over a tunnel.
  async https(authority, path) {
    const { response, socket } = await tunnel(authority);
    if (response.statusCode !== 200) {
      socket.destroy();
      return { connect: response.statusCode };
    }
    return new Promise((resolve, reject) => {
      const message = https.request({ socket, agent: false, servername: 'localhost', path, ca: fs.readFileSync(ca) }, (answer) => resolve(hashed(answer)));
      message.on('error', reject);
      message.end();
    });
  },

  // Upgrade in absolute form to a server in this process, which speaks first and then
  // echoes until the client half-closes.
  async upgrade(size) {
    const noise = crypto.randomBytes(Number(size));
    const server = http.createServer({ allowHalfOpen: true });
    server.on('upgrade', (message, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello');
      socket.pipe(socket);
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${server.address().port}/`;
    return new Promise((resolve, reject) => {
      const message = http.request({ ...proxy, path: url, headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
      message.on('error', reject);
      message.on('response', (answer) => reject(new Error(`status ${answer.statusCode}`)));
      message.on('upgrade', (answer, socket, head) => {
        const parts = [head];
        socket.on('data', (part) => parts.push(part));
        socket.on('end', () => {
          server.close();
          const all = Buffer.concat(parts);
          resolve({ protocol: answer.headers.upgrade, equal: all.equals(Buffer.concat([Buffer.from('hello'), noise])) });
        });
        socket.end(noise);
      });
      message.end();
    });
  },
};

tasks[task](...args).then((result) => console.log(JSON.stringify(result)));
