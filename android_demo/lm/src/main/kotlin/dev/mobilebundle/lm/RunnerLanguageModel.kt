package dev.mobilebundle.lm

import android.content.Context
import android.os.Handler
import android.os.Looper
import java.io.Closeable
import java.io.File
import java.io.IOException
import java.util.concurrent.Executor
import kotlin.concurrent.thread
import org.json.JSONObject

/**
 * [LanguageModel] by `mobile-run serve` as a child process.
 *
 * [looper]: of the thread that everything is called on and told on. Files are read on threads of its own. [owner]: named to
 * others that want a model meanwhile.
 */
class RunnerLanguageModel @JvmOverloads constructor(
    context: Context,
    private val looper: Looper = Looper.getMainLooper(),
    private val owner: String = "chat",
) : LanguageModel {
    /** What the process is asked for: one after the other. */
    private interface Task {
        val isCancelled: Boolean

        fun toJson(): JSONObject

        fun fail(error: ModelError)
    }

    private inner class Answer(val request: GenerationRequest, val listener: GenerationListener) : Generation, Task {
        var tokens = 0
        override var isCancelled = false
            private set
        override var isFinished = false
            private set

        override fun toJson() = request.toJson()

        override fun fail(error: ModelError) = tell(GenerationEvent.Failed(error))

        override fun cancel() {
            looper.checkMine()
            if (isCancelled || isFinished) return
            isCancelled = true
            if (this === current && loaded != null) process?.send { CANCEL }
        }

        fun tell(event: GenerationEvent) {
            isFinished = event is GenerationEvent.Finished || event is GenerationEvent.Failed
            listener.onEvent(event)
        }
    }

    /** [command]: `save` or `resume`. */
    private class StateTask(val command: String, val file: File, val listener: SavedStateListener) : Task {
        override val isCancelled get() = false

        override fun toJson(): JSONObject = JSONObject().put(command, file.absolutePath)

        override fun fail(error: ModelError) = listener.onEnd(SavedStateEvent.Failed(error))
    }

    private val app = context.applicationContext
    private val main = Handler(looper).let { handler -> Executor { handler.post(it) } }
    private val observers = ArrayList<StateObserver>()
    private var bundle: File? = null
    private var options = LoadOptions()
    private var process: RunnerProcess? = null
    private var loaded: LoadedModel? = null

    /** What is being done, or waits for the process to be ready. */
    private var current: Task? = null

    /** What comes after it; of the answers among all of them, only the last is not cancelled. */
    private val waiting = ArrayDeque<Task>()

    /** Whether the open bundle fits with requests that have a form. */
    private var fitWithForms: MemoryFit? = null

    /** Identifies an attempt to open the bundle, from the look at its manifest to the end of the process; null: none. */
    private var attempt: Any? = null

    override var state: ModelState = ModelState.Closed
        private set(value) {
            if (field == value) return
            field = value
            for (observer in observers.toList()) observer.onState(value)
        }

    override fun observe(observer: StateObserver): Closeable {
        looper.checkMine()
        observers += observer
        observer.onState(state)
        return Closeable { observers -= observer }
    }

    override fun load(bundle: File, options: LoadOptions) {
        looper.checkMine()
        endProcess(ModelError.WasReleased(ReleaseReason.NOT_NEEDED))
        this.bundle = bundle
        this.options = options
        start()
    }

    override fun generate(request: GenerationRequest, listener: GenerationListener): Generation {
        looper.checkMine()
        val asked = Answer(request, listener)
        val answering = (waiting + current).any { it is Answer && !it.isCancelled }
        if (answering) asked.fail(ModelError.StillAnswering()) else enqueue(asked)
        return asked
    }

    override fun save(file: File, listener: SavedStateListener) {
        looper.checkMine()
        val task = StateTask("save", file, listener)
        if (attempt == null) task.fail(ModelError.NotOpen()) else enqueue(task)
    }

    override fun resume(file: File, listener: SavedStateListener) {
        looper.checkMine()
        enqueue(StateTask("resume", file, listener))
    }

    private fun enqueue(task: Task) {
        if (current != null) {
            waiting += task
            return
        }
        current = task
        val model = loaded
        when {
            model != null -> ask(model)
            attempt == null -> start()
        }
    }

    override fun release(reason: ReleaseReason) {
        looper.checkMine()
        if (attempt == null) return
        state = ModelState.Released(reason)
        endProcess(ModelError.WasReleased(reason))
    }

    override fun close() {
        looper.checkMine()
        bundle = null
        state = ModelState.Closed
        endProcess(ModelError.WasReleased(ReleaseReason.NOT_NEEDED))
    }

    private fun start() {
        val directory = bundle ?: return fail(ModelError.NotOpen())
        ModelOwner.take(this, owner)?.let { return fail(ModelError.Busy(it)) }
        val mine = Any()
        attempt = mine
        state = ModelState.Loading(null)
        val context = options.context
        thread(name = "open-bundle", isDaemon = true) {
            var withForms: MemoryFit? = null
            val refusal = try {
                val manifest = BundleManifest.read(directory)
                val memory = deviceMemory(app)
                withForms = MemoryFit.of(manifest, memory, context, forms = true)
                objection(MemoryFit.of(manifest, memory, context))
            } catch (e: IOException) {
                ModelError.BundleUnreadable(e.message ?: directory.path)
            }
            main.execute {
                if (attempt === mine) {
                    fitWithForms = withForms
                    refusal?.let { fail(it) } ?: startProcess(directory)
                }
            }
        }
    }

    private fun objection(fit: MemoryFit?) = fit?.takeIf { it.verdict == MemoryFit.Verdict.TOO_LARGE }?.let { ModelError.DoesNotFit(it) }

    private fun startProcess(directory: File) {
        val arguments = buildList {
            add("serve")
            add(directory.path)
            options.context?.let { addAll(listOf("--context", "$it")) }
            options.threads?.let { addAll(listOf("--threads", "$it")) }
        }
        lateinit var started: RunnerProcess
        started = RunnerProcess(runnerProgram(app), arguments, main, object : RunnerProcess.Listener {
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

    private fun ask(model: LoadedModel) {
        val asked = current ?: return
        val hasForm = asked is Answer && asked.request.form != null
        if (hasForm) objection(fitWithForms)?.let { error -> return finish { it.fail(error) } }
        if (asked is Answer) state = ModelState.Generating(model)
        process?.send { asked.toJson().toString() }
        if (asked.isCancelled) process?.send { CANCEL }
    }

    private fun take(event: RunnerEvent) {
        when (event) {
            is RunnerEvent.Install -> state = ModelState.Loading(event.doneBytes.toFloat() / event.totalBytes)
            is RunnerEvent.Load -> {
                loaded = event.model
                state = ModelState.Ready(event.model)
                ask(event.model)
            }
            is RunnerEvent.Reading -> (current as? Answer)?.tell(event.progress)
            is RunnerEvent.Prompt -> (current as? Answer)?.tell(event.started)
            is RunnerEvent.Token -> (current as? Answer)?.let {
                if (!event.isRest) it.tokens++
                if (event.text.isNotEmpty()) it.tell(GenerationEvent.Text(event.text, it.tokens))
            }
            is RunnerEvent.Done -> finish { (it as? Answer)?.tell(GenerationEvent.Finished(event.stats)) }
            is RunnerEvent.State -> finish { (it as? StateTask)?.listener?.onEnd(SavedStateEvent.Done(event.state)) }
            is RunnerEvent.Error -> if (loaded == null) fail(event.error) else finish { it.fail(refusal(it, event.error)) }
            is RunnerEvent.Other -> Unit
        }
    }

    private fun finish(tell: (Task) -> Unit) {
        loaded?.let { state = ModelState.Ready(it) }
        val finished = current
        current = waiting.removeFirstOrNull()
        loaded?.let { ask(it) }
        finished?.let(tell)
    }

    /** What is wrong with the file of a state is no fault of the bundle. */
    private fun refusal(task: Task, error: ModelError) = if (task is StateTask) ModelError.StateRefused(error.detail) else error

    private fun fail(error: ModelError) {
        state = ModelState.Failed(error)
        endProcess(error)
    }

    /** Ends the process, and with [error] all that it was asked for. */
    private fun endProcess(error: ModelError) {
        process?.kill()
        process = null
        attempt = null
        loaded = null
        ModelOwner.give(this)
        val lost = listOfNotNull(current) + waiting
        current = null
        waiting.clear()
        for (one in lost) one.fail(error)
    }

    private companion object {
        /** Stops what was asked before it, and only that: a request that is not sent yet is cancelled when it is. */
        const val CANCEL = "cancel"
    }
}
