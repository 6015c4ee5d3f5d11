package dev.mobilebundle.lm

import java.io.Closeable
import java.io.File
import java.io.IOException
import java.util.concurrent.Executor

/**
 * [LanguageModel] by `mobile-run serve` as a child process.
 *
 * [program]: [runnerProgram]. [main]: runs everything, on Android `Handler(Looper.getMainLooper())::post`.
 * [memory]: asked before a bundle is opened. [owner]: named to others that want a model meanwhile.
 */
class RunnerLanguageModel(
    private val program: File,
    private val main: Executor,
    private val memory: () -> DeviceMemory,
    private val owner: String = "chat",
) : LanguageModel {
    private class Answer(val request: GenerationRequest, val listener: (GenerationEvent) -> Unit) {
        var cancelled = false
    }

    private val observers = ArrayList<(ModelState) -> Unit>()
    private var bundle: File? = null
    private var options = LoadOptions()
    private var process: RunnerProcess? = null
    private var loaded: LoadedModel? = null

    /** What is being answered, or waits for the process to be ready. */
    private var answer: Answer? = null

    override var state: ModelState = ModelState.Closed
        private set(value) {
            if (field == value) return
            field = value
            for (observer in observers.toList()) observer(value)
        }

    override fun observe(observer: (ModelState) -> Unit): Closeable {
        observers += observer
        observer(state)
        return Closeable { observers -= observer }
    }

    override fun load(bundle: File, options: LoadOptions) {
        endProcess(ModelError.WasReleased(ReleaseReason.NOT_NEEDED))
        this.bundle = bundle
        this.options = options
        start()
    }

    override fun generate(request: GenerationRequest, listener: (GenerationEvent) -> Unit) {
        if (answer != null) return listener(GenerationEvent.Failed(ModelError.StillAnswering))
        val model = loaded
        answer = Answer(request, listener)
        when {
            model != null -> ask(model)
            process == null -> start()
        }
    }

    override fun cancel() {
        answer?.cancelled = true
        if (loaded != null) process?.send(CANCEL)
    }

    override fun release(reason: ReleaseReason) {
        if (process == null) return
        state = ModelState.Released(reason)
        endProcess(ModelError.WasReleased(reason))
    }

    override fun close() {
        bundle = null
        state = ModelState.Closed
        endProcess(ModelError.WasReleased(ReleaseReason.NOT_NEEDED))
    }

    private fun start() {
        val directory = bundle ?: return fail(ModelError.BundleUnreadable("no bundle is open"))
        refusal(directory)?.let { return fail(it) }
        ModelOwner.take(this, owner)?.let { return fail(ModelError.Busy(it)) }
        val arguments = buildList {
            add("serve")
            add(directory.path)
            options.context?.let { addAll(listOf("--context", "$it")) }
            options.threads?.let { addAll(listOf("--threads", "$it")) }
        }
        state = ModelState.Loading(null)
        lateinit var started: RunnerProcess
        started = RunnerProcess(program, arguments, main, object : RunnerProcess.Listener {
            // Events of a process that was ended are still on their way when the next one runs: they mean nothing.
            override fun onEvent(event: RunnerEvent) {
                if (started === process) take(event)
            }

            override fun onExit(error: ModelError?) {
                if (started === process) fail(error ?: ModelError.RunnerDied(0, ""))
            }
        })
        process = started
        started.start()
    }

    /** Why the bundle must not be opened; null if nothing is known against it. */
    private fun refusal(directory: File): ModelError? {
        val manifest = try {
            BundleManifest.read(directory)
        } catch (e: IOException) {
            return ModelError.BundleUnreadable(e.message ?: directory.path)
        }
        val fit = MemoryFit.of(manifest, memory(), options.context)
        return if (fit.verdict == MemoryFit.Verdict.TOO_LARGE) ModelError.DoesNotFit(fit) else null
    }

    private fun ask(model: LoadedModel) {
        val asked = answer ?: return
        state = ModelState.Generating(model)
        process?.send(asked.request.toJson().toString())
        if (asked.cancelled) process?.send(CANCEL)
    }

    private fun take(event: RunnerEvent) {
        when (event) {
            is RunnerEvent.Install -> state = ModelState.Loading(event.doneBytes.toFloat() / event.totalBytes)
            is RunnerEvent.Load -> {
                loaded = event.model
                state = ModelState.Ready(event.model)
                ask(event.model)
            }
            is RunnerEvent.Prompt -> answer?.listener?.invoke(event.started)
            is RunnerEvent.Token -> if (event.text.isNotEmpty()) answer?.listener?.invoke(GenerationEvent.Text(event.text))
            is RunnerEvent.Done -> finish(GenerationEvent.Finished(event.stats))
            is RunnerEvent.Error -> if (loaded == null) fail(event.error) else finish(GenerationEvent.Failed(event.error))
            is RunnerEvent.Other -> Unit
        }
    }

    private fun finish(event: GenerationEvent) {
        loaded?.let { state = ModelState.Ready(it) }
        val finished = answer
        answer = null
        finished?.listener?.invoke(event)
    }

    private fun fail(error: ModelError) {
        state = ModelState.Failed(error)
        endProcess(error)
    }

    /** Ends the process, and with [error] the answer that it was giving. */
    private fun endProcess(error: ModelError) {
        process?.kill()
        process = null
        loaded = null
        ModelOwner.give(this)
        val lost = answer
        answer = null
        lost?.listener?.invoke(GenerationEvent.Failed(error))
    }

    private companion object {
        /** Stops what was asked before it, and only that: a request that is not sent yet is cancelled when it is. */
        const val CANCEL = "cancel"
    }
}
