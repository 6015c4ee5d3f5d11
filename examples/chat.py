"""A conversation with a bundle, a question per line: chat.py NAME.mbundle"""

import sys

import mobile_bundle as mb


def main(path: str) -> None:
    messages = []
    with mb.open(path).load() as model:
        for line in sys.stdin:
            messages.append({"role": "user", "content": line.strip()})
            answer = model.chat(messages, max_new_tokens=64, sampling=mb.Sampling(temperature=0.7, seed=1))
            messages.append({"role": "assistant", "content": answer})
            print(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
